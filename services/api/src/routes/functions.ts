import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, type Pool } from '@outbox/core';
import type { FamilyName } from '@outbox/jobs';
import express, { type Router } from 'express';
import { z } from 'zod';
import { servicesAndTriggersOnly } from '../auth.ts';
import { ProblemError } from '../problem.ts';
import { optionalBody } from '../request-body.ts';

/** Most jobs that one call waits for, and for how long: what the functions before us did at once. */
const MOST_JOBS = 10;
const WAIT_MS = 55 * SECOND;
const LOOK_EVERY_MS = 250;

interface Trigger {
  family: FamilyName;
  queues: string[];
  body: z.ZodType<{ action?: Action }>;
  /** Each call is a row of gmb.sync_worker_runs. */
  isRecorded?: boolean;
}

const actions = ['process_queue_data_api', 'retry_failed'] as const;
type Action = (typeof actions)[number];
const noAction = z.looseObject({}).transform(() => ({}));

/** By the names that pg_cron and others have called so far. */
const TRIGGERS: Record<string, Trigger> = {
  'process-auto-sync-jobs': { family: 'reminders', queues: ['reminders', 'pause-checks'], body: noAction },
  bubble_sync: {
    family: 'bubble',
    queues: ['bubble-sync'],
    body: z.object({ action: z.enum(actions, `must be ${actions.join(' or ')}`) }),
  },
  'auto-sync-cron': { family: 'golioth', queues: ['golioth-sync'], body: noAction },
  'gmb-sync-worker': { family: 'gmb', queues: ['gmb-sync'], body: noAction, isRecorded: true },
};

export interface FunctionRoutesDependencies {
  db: Pool;
  families: readonly FamilyName[];
  /** How long one call waits for its jobs; shorter in tests. */
  waitMs?: number;
}

/**
 * `POST /functions/v1/*`: what used to do the work, for callers that still call it. The workers do it now, whether or not
 * anybody calls; a call wakes the bridge, waits for up to ten jobs that are due and says what became of them.
 */
export function functionRoutes({ db, families, waitMs = WAIT_MS }: FunctionRoutesDependencies): Router {
  const router = express.Router();
  for (const [name, { family, queues, body, isRecorded = false }] of Object.entries(TRIGGERS)) {
    router.post(`/functions/v1/${name}`, servicesAndTriggersOnly, async (request, response) => {
      if (!families.includes(family)) {
        throw new ProblemError('not-found', `The family ${family} is switched off here (FAMILIES).`);
      }
      const { action } = body.parse(optionalBody(request));
      const gone = new AbortController();
      response.on('close', () => gone.abort());
      const runId = randomUUID();
      if (isRecorded) await db.query(BEGIN_RUN, [runId]);
      await db.query(WAKE_BRIDGE);
      const outcome = await watch(db, queues, action === 'retry_failed', waitMs, gone.signal);
      if (isRecorded)
        await db.query(FINISH_RUN, [runId, outcome.picked, outcome.processed, outcome.succeeded, outcome.failed]);
      response.json(report(runId, outcome));
    });
  }
  return router;
}

/** A sleeping bridge looks at once; one that is awake does so anyway. */
const WAKE_BRIDGE = /* sql */ `
  select pg_notify('outbox_ready', '') where pg_try_advisory_xact_lock_shared(outbox.awake_lock())`;

/** A call that dies with this process never says how it ended: the family gives its row up by itself. */
const BEGIN_RUN = /* sql */ `select gmb.begin_worker_run(run_id => $1)`;
const FINISH_RUN = /* sql */ `
  select gmb.finish_worker_run(run_id => $1, picked => $2, processed => $3, succeeded => $4, failed => $5)`;

/** What is due; with $2, only what has failed before. */
const PICK = /* sql */ `
  select j.id, clock_timestamp() as since
  from outbox.jobs j
  where j.finished_at is null
    and j.queue = any ($1)
    and j.state in ('pending', 'published')
    and j.scheduled_at <= clock_timestamp()
    and (not $2 or j.attempt > 0)
  order by j.scheduled_at, j.id
  limit ${MOST_JOBS}`;

/** How the newest run of each has ended since; a parked or interrupted one has not been processed. */
const LOOK = /* sql */ `
  select distinct on (a.job_id) a.job_id as id, a.outcome in ('completed', 'skipped') as succeeded
  from outbox.attempts a
  where a.job_id = any ($1)
    and a.finished_at >= $2
    and a.outcome in ('completed', 'skipped', 'retried', 'failed', 'cancelled')
  order by a.job_id, a.finished_at desc`;

interface Outcome {
  picked: number;
  processed: number;
  succeeded: number;
  failed: number;
}

async function watch(
  db: Pool,
  queues: string[],
  onlyFailed: boolean,
  waitMs: number,
  signal: AbortSignal,
): Promise<Outcome> {
  const { rows: picked } = await db.query<{ id: string; since: Date }>(PICK, [queues, onlyFailed]);
  const until = performance.now() + waitMs;
  let ended: { succeeded: boolean }[] = [];
  while (picked.length > 0) {
    const values = [picked.map(({ id }) => id), picked[0]?.since];
    ended = (await db.query<{ id: string; succeeded: boolean }>(LOOK, values)).rows;
    if (ended.length === picked.length || performance.now() >= until || signal.aborted) break;
    await wait(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
  const succeeded = ended.filter((job) => job.succeeded).length;
  return { picked: picked.length, processed: ended.length, succeeded, failed: ended.length - succeeded };
}

/** In the shape that callers know. */
function report(runId: string, { picked, processed, succeeded, failed }: Outcome) {
  return {
    success: true,
    run_id: runId,
    jobs_picked: picked,
    jobs_processed: processed,
    jobs_succeeded: succeeded,
    jobs_failed: failed,
  };
}

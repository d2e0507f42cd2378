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
  body: z.ZodType<{ action?: string }>;
}

const noAction = z.looseObject({}).transform(() => ({}));
const actions = ['process_queue_data_api', 'retry_failed'] as const;

/** By the names that pg_cron and others have called so far. */
const TRIGGERS: Record<string, Trigger> = {
  'process-auto-sync-jobs': { family: 'reminders', queues: ['reminders', 'pause-checks'], body: noAction },
  bubble_sync: {
    family: 'bubble',
    queues: ['bubble-sync'],
    body: z.object({ action: z.enum(actions, `must be ${actions.join(' or ')}`) }),
  },
  'auto-sync-cron': { family: 'golioth', queues: ['golioth-sync'], body: noAction },
  'gmb-sync-worker': { family: 'gmb', queues: ['gmb-sync'], body: noAction },
};

export interface FunctionRoutesDependencies {
  db: Pool;
  families: readonly FamilyName[];
  /** How long one call waits for its jobs; shorter in tests. */
  waitMs?: number;
}

/**
 * `POST /functions/v1/*`: what used to do the work, for callers that still call it. The workers do it now, whether or not
 * anybody calls; a call waits for up to ten jobs that are due and says what became of them.
 */
export function functionRoutes({ db, families, waitMs = WAIT_MS }: FunctionRoutesDependencies): Router {
  const router = express.Router();
  for (const [name, { family, queues, body }] of Object.entries(TRIGGERS)) {
    router.post(`/functions/v1/${name}`, servicesAndTriggersOnly, async (request, response) => {
      if (!families.includes(family)) {
        throw new ProblemError('not-found', `The family ${family} is switched off here (FAMILIES).`);
      }
      const { action } = body.parse(optionalBody(request));
      if (action === 'retry_failed') await db.query('select bubble.invoke_bubble_sync_retry()');
      const gone = new AbortController();
      response.on('close', () => gone.abort());
      response.json(await watch(db, queues, waitMs, gone.signal));
    });
  }
  return router;
}

const PICK = /* sql */ `
  select j.id, clock_timestamp() as since
  from outbox.jobs j
  where j.finished_at is null
    and j.queue = any ($1)
    and j.state in ('pending', 'published')
    and j.scheduled_at <= clock_timestamp()
  order by j.scheduled_at, j.id
  limit ${MOST_JOBS}`;

/** How the newest run of each has ended since; a parked or interrupted one has not been processed. */
const LOOK = /* sql */ `
  select distinct on (a.job_id) a.job_id as id, a.outcome in ('completed', 'skipped') as succeeded
  from outbox.attempts a
  where a.job_id = any ($1)
    and a.finished_at >= $2
    and a.outcome in ('completed', 'skipped', 'retried', 'failed', 'cancelled')
  order by a.job_id, a.run desc`;

/** In the shape that callers know. */
interface RunReport {
  success: boolean;
  run_id: string;
  jobs_picked: number;
  jobs_processed: number;
  jobs_succeeded: number;
  jobs_failed: number;
}

async function watch(db: Pool, queues: string[], waitMs: number, signal: AbortSignal): Promise<RunReport> {
  const { rows: picked } = await db.query<{ id: string; since: Date }>(PICK, [queues]);
  const until = performance.now() + waitMs;
  let ended: { succeeded: boolean }[] = [];
  while (picked.length > 0) {
    const values = [picked.map(({ id }) => id), picked[0]?.since];
    ended = (await db.query<{ id: string; succeeded: boolean }>(LOOK, values)).rows;
    if (ended.length === picked.length || performance.now() >= until || signal.aborted) break;
    await wait(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
  const succeeded = ended.filter((job) => job.succeeded).length;
  return {
    success: true,
    run_id: randomUUID(),
    jobs_picked: picked.length,
    jobs_processed: ended.length,
    jobs_succeeded: succeeded,
    jobs_failed: ended.length - succeeded,
  };
}

import {
  audit,
  ConfigError,
  connectQueueBackend,
  withTransaction,
  type Queryable,
  type QueueBackend,
  type SharedSettings,
} from '@outbox/core';
import { queueNames } from '@outbox/jobs';
import { print, printResult } from './output.ts';
import { requireRedisUrl, type Session } from './session.ts';

interface Plan {
  /** Rows that BullMQ holds and that run again. */
  rows: number;
  running: number;
  /** Nobody can tell what was called since then. */
  unknownSince: Date;
}

const READ_PLAN = /* sql */ `
  select
    count(j.id)::int as rows, (count(j.id) filter (where j.state = 'active'))::int as running,
    m.counted_at as "unknownSince"
  from outbox.meta m
  left join outbox.jobs j on j.state in ('published', 'active') and j.finished_at is null
  group by m.counted_at
  limit 1`;

/**
 * Lets work go on after Postgres was restored to an older state (docs/decisions/0006). First says what will happen; without
 * `yes` that is all. Then, in this order: empties our queues in BullMQ, whose jobs belong to the time that was lost, and
 * takes the rows back. A crash in between leaves the queues empty and the database stopped as before: run it again.
 */
export async function resumeAfterRestore(
  session: Session,
  { yes, json = false }: { yes: boolean; json?: boolean | undefined },
): Promise<void> {
  const { pool, settings, actor } = session;
  await assertMayResume(pool);
  const plan = await readPlan(pool);
  if (!json) print(tellPlan(plan));
  if (!yes) throw new ConfigError('Nothing was changed. Add --yes to do it.');

  const seen = await emptyQueues(settings);
  const since = await withTransaction(pool, async (tx) => {
    await tx.query('select outbox.resume_after_restore(counter => $1)', [seen ?? null]);
    const { rows } = await tx.query<{ since: Date }>('select restored_from as since from outbox.meta limit 1');
    await audit(tx, actor, 'resume-after-restore', undefined, { ...plan, seen, since: rows[0]?.since });
    return rows[0]?.since;
  });
  printResult({ ...plan, unknownSince: since }, 'Done: work goes on.', json);
}

/** Only the owner of the tables may: it moves sequences and takes back rows that run. */
async function assertMayResume(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ may: boolean }>(
    "select has_function_privilege('outbox.resume_after_restore(bigint)', 'execute') as may",
  );
  if (rows[0]?.may) return;
  throw new ConfigError(
    'resume --after-restore needs the owner of the outbox: set DATABASE_ROLE=outbox_owner and the login that migrates.',
  );
}

async function readPlan(db: Queryable): Promise<Plan> {
  const { rows } = await db.query<Plan & Record<string, unknown>>(READ_PLAN);
  if (!rows[0]) throw new ConfigError('This database has no outbox schema yet: run "npm run migrate".');
  return rows[0];
}

function tellPlan({ rows, running, unknownSince }: Plan): string {
  return [
    `Queues emptied in BullMQ: ${queueNames().join(', ')}.`,
    `Rows published again: ${rows}, of which ${running} were running.`,
    `Calls made since ${unknownSince.toISOString()} are unknown: a job that was open then asks the provider before it calls.`,
  ].join('\n');
}

/** Throws our jobs out of BullMQ, running ones too, and gives what the backend has seen of the counter. */
async function emptyQueues(settings: SharedSettings): Promise<string | undefined> {
  requireRedisUrl(settings);
  const backend = await connectQueueBackend(settings, () => undefined);
  try {
    const seen = await readCounter(backend);
    for (const name of queueNames()) {
      const queue = backend.createQueue(name);
      await queue.obliterate({ force: true }).finally(() => queue.close());
    }
    return seen;
  } finally {
    await backend.close();
  }
}

/** Undefined of a backend that keeps no counter: then the one of the database counts. */
async function readCounter(
  backend: QueueBackend & { readCounter?: () => Promise<string | undefined> },
): Promise<string | undefined> {
  return backend.readCounter?.();
}

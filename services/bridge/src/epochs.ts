import { reached, withTransaction, type Logger, type Pool, type QueueBackend } from '@outbox/core';
import { BEGINNING, type Cursor } from './cursor.ts';
import { Findings } from './repairs.ts';
import { unpublish, type Published } from './unpublish.ts';

/**
 * A queue's data carries a number, its epoch, that Postgres has too. When it is missing or another, the data is gone as a
 * whole (FLUSHALL, a restart without persistence, another server): the number is raised, and every row published under an
 * older one goes back. Rows of a publish that was under way meanwhile commit later, with the older number.
 */
export interface EpochOptions {
  pool: Pool;
  backend: QueueBackend;
  /** Does what has to be done with the new data before anything is published into it. */
  prepare: (queue: string) => Promise<unknown>;
  log: Logger;
}

const READ_EPOCH = /* sql */ `
  select epoch from outbox.queues where name = $1 limit 1`;

/** Bridges that see a loss together take turns: the second finds it settled. */
const LOCK_EPOCH = /* sql */ `
  select epoch from outbox.queues where name = $1 limit 1 for no key update`;

const RAISE_EPOCH = /* sql */ `
  update outbox.queues set epoch = epoch + 1 where name = $1 returning epoch`;

/** The epochs this process has seen, by queue. */
export type SeenEpochs = Map<string, string>;

/**
 * Compares a queue's epoch in Postgres with the one in its data, and raises it when the data is gone. Returns whether it is
 * another than in `seen`, raised here or by another bridge: then rows published under an older one are to be taken back.
 */
export async function followEpoch(options: EpochOptions, queue: string, seen: SeenEpochs): Promise<boolean> {
  const inBackend = await options.backend.readEpoch(queue);
  const { rows } = await options.pool.query<{ epoch: string }>(READ_EPOCH, [queue]);
  const inPostgres = rows[0]?.epoch;
  if (inPostgres === undefined) return false;
  const epoch = inPostgres === inBackend ? inPostgres : await agreeOnEpoch(options, queue);
  const changed = seen.get(queue) !== epoch;
  seen.set(queue, epoch);
  return changed;
}

/**
 * A crash after the write to the backend and before the commit leaves Postgres behind by one: the next look raises it to
 * what the backend has already.
 */
async function agreeOnEpoch({ pool, backend, prepare, log }: EpochOptions, queue: string): Promise<string> {
  return withTransaction(pool, async (client) => {
    const { rows } = await client.query<{ epoch: string }>(LOCK_EPOCH, [queue]);
    const before = rows[0]?.epoch ?? NEVER_SERVED;
    if ((await backend.readEpoch(queue)) === before) return before;
    const raised = await client.query<{ epoch: string }>(RAISE_EPOCH, [queue]);
    const epoch = raised.rows[0]?.epoch ?? before;
    await prepare(queue);
    await backend.writeEpoch(queue, epoch);
    reached('epoch.written');
    if (before !== NEVER_SERVED) log.warn({ queue, epoch }, 'queue data lost, publishing again');
    return epoch;
  });
}

/** The epoch of a queue that no backend has had yet. */
const NEVER_SERVED = '0';

const BATCH = 1_000;

const FIND_OLDER = /* sql */ `
  select j.id, j.generation, j.queue, j.scheduled_at::text as "scheduledAt"
  from outbox.jobs j
  join outbox.queues q on q.name = j.queue
  where j.finished_at is null
    and j.queue = any ($1)
    and j.published_epoch is distinct from q.epoch
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp()))
    and (j.scheduled_at, j.id) > ($2::timestamptz, $3::bigint)
  order by j.scheduled_at, j.id
  limit ${BATCH}`;

interface OlderRow extends Published, Cursor {
  queue: string;
}

/**
 * Takes back what was published under another epoch than its queue's: all queues in one order, the earliest due first.
 * `found` is more than `returned` when somebody has rows locked: they are there at the next look.
 */
export async function takeBackOlder(
  pool: Pool,
  queues: readonly string[],
): Promise<{ found: number; returned: Findings }> {
  const returned = new Findings(queues);
  let found = 0;
  // Behind the last row each time: what went back a moment ago is not walked over again.
  for (let cursor: Cursor | undefined = BEGINNING; cursor;) {
    const values: unknown[] = [queues, cursor.scheduledAt, cursor.id];
    const { rows } = await pool.query<OlderRow & Record<string, unknown>>(FIND_OLDER, values);
    for (const queue of new Set(rows.map((row) => row.queue))) {
      const ofQueue = rows.filter((row) => row.queue === queue);
      returned.add(queue, 'epoch', await unpublish(pool, ofQueue));
    }
    found += rows.length;
    cursor = rows.length === BATCH ? rows.at(-1) : undefined;
  }
  return { found, returned };
}

/** `epoch` is what the backend has; rows are compared with it, since Postgres' own is not raised by looking. */
const COUNT_OLDER = /* sql */ `
  select count(*)::int as count
  from outbox.jobs j
  where j.finished_at is null
    and j.queue = $1
    and j.published_epoch is distinct from $2::bigint
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp()))`;

/** How many rows were published into other data than the queue has now. Changes nothing. */
export async function countOlder(pool: Pool, backend: QueueBackend, queue: string): Promise<number> {
  const epoch = await backend.readEpoch(queue);
  const { rows } = await pool.query<{ count: number }>(COUNT_OLDER, [queue, epoch ?? null]);
  return rows[0]?.count ?? 0;
}

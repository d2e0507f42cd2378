import { reached, withTransaction, type Pool, type PoolClient } from '@outbox/core';
import { findDefinition } from '@outbox/jobs';
import type { Queue } from 'bullmq';
import { addJobs, type BulkJob, type Refused } from './add-jobs.ts';
import { setPaused } from './queue-controls.ts';
import { toBullPriority } from './priority.ts';

interface ReadyRow {
  jobId: string;
  generation: number;
  /** False when the row moved on since: cancelled, claimed, or alive under a newer generation. */
  current: boolean;
  name: string;
  queue: string;
  payload: Record<string, unknown>;
  priority: number;
  /** Of its queue, before the job is added: if BullMQ's data is lost while we publish, the row will not match. */
  epoch: string;
  /** True while its queue is paused. */
  paused: boolean;
  /** Epoch milliseconds, by the database's clock, as is `nowMs`. */
  dueMs: number;
  nowMs: number;
}

const PICK_READY = /* sql */ `
  with picked as (
    select r.job_id, r.generation
    from outbox.ready r
    where not r.far and r.serial_key is null and (r.retry_at is null or r.retry_at <= now())
    order by r.priority desc, r.scheduled_at
    limit $1
    for update skip locked
  )
  select
    p.job_id as "jobId", p.generation, coalesce(j.state = 'pending' and j.generation = p.generation, false) as current,
    j.name, j.queue, j.payload, j.priority, q.epoch, q.paused_at is not null as paused,
    extract(epoch from j.scheduled_at)::float8 * 1000 as "dueMs",
    extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs"
  from picked p
  left join outbox.jobs j on j.id = p.job_id
  left join outbox.queues q on q.name = j.queue
  order by j.priority desc, j.scheduled_at, p.job_id`;

/**
 * Marks what was added ($4), and removes from the outbox what was marked and what had moved on before. A row that is still
 * pending afterwards was refused, or is locked by somebody, or changed at this very moment: it stays.
 */
const SETTLE = /* sql */ `
  with picked as (
    select p.* from unnest($1::bigint[], $2::int[], $3::bigint[], $4::boolean[]) as p (id, generation, epoch, added)
  ),
  held as (
    select j.id, p.epoch
    from picked p
    join outbox.jobs j on j.id = p.id and j.generation = p.generation
    where p.added and j.state = 'pending'
    order by j.id
    for no key update of j skip locked
  ),
  marked as (
    update outbox.jobs j
    set state = 'published', published_at = clock_timestamp(), published_epoch = h.epoch
    from held h
    where j.id = h.id
    returning j.id
  ),
  done_with as (
    select p.id, p.generation from picked p join marked m on m.id = p.id
    union all
    select p.id, p.generation
    from picked p
    left join outbox.jobs j on j.id = p.id and j.generation = p.generation and j.state = 'pending'
    where j.id is null
  ),
  removed as (
    delete from outbox.ready r
    using done_with d
    where r.job_id = d.id and r.generation = d.generation
    returning r.job_id
  )
  select (select count(*) from marked)::int as marked, (select count(*) from removed)::int as removed`;

/** A row that was cancelled between pick and mark was taken out of BullMQ before it was added: take it out again. */
const REMOVE_CANCELLED = /* sql */ `
  insert into outbox.removals (queue, job_id, generation)
  select j.queue, p.id, p.generation
  from unnest($1::bigint[], $2::int[]) as p (id, generation)
  join outbox.jobs j on j.id = p.id
  where j.state = 'cancelled' or j.generation <> p.generation`;

/** A row that BullMQ refuses alone, time and again, fails: it would hold a place in every batch for ever. */
const MOST_REFUSALS = 5;

const NOTE_REFUSAL = /* sql */ `
  with refused as (
    select j.id, p.error
    from unnest($1::bigint[], $2::int[], $3::text[]) as p (id, generation, error)
    join outbox.jobs j on j.id = p.id and j.generation = p.generation
    where j.state = 'pending'
    order by j.id
    for no key update of j skip locked
  )
  update outbox.jobs j
  set publish_failures = j.publish_failures + 1,
      last_error = r.error,
      state = case when j.publish_failures + 1 >= ${MOST_REFUSALS} then 'failed' else j.state end,
      reason = case when j.publish_failures + 1 >= ${MOST_REFUSALS} then 'refused_by_queue' else j.reason end,
      finished_at = case when j.publish_failures + 1 >= ${MOST_REFUSALS} then clock_timestamp() end,
      holds_key = j.holds_key and j.publish_failures + 1 < ${MOST_REFUSALS},
      admitted = j.admitted and j.publish_failures + 1 < ${MOST_REFUSALS}
  from refused r
  where j.id = r.id
  returning j.id, j.state`;

const PUT_OFF = /* sql */ `
  update outbox.ready r
  set retry_at = clock_timestamp() + interval '200 ms'
  from unnest($1::bigint[], $2::int[]) as p (id, generation)
  where r.job_id = p.id and r.generation = p.generation`;

/**
 * BullMQ keeps what is finished this long, for people who look at the board; the history is in Postgres. Age in seconds. Of
 * what completes, only the first few of each batch: keeping a job and letting go of an older one costs Redis as much as
 * running it, and under load a sample shows as much.
 */
const KEEP_COMPLETED = { age: 60 * 60, count: 1_000 };
const KEPT_OF_A_BATCH = 10;
const KEEP_FAILED = { age: 24 * 60 * 60, count: 1_000 };

/** The row decides how often a job is attempted; BullMQ must never give up before it. */
const GENEROUS_ATTEMPTS = 1_000;

export interface PublishOptions {
  pool: Pool;
  /** The queue of a row, by name. */
  queueOf: (name: string) => Queue;
  limit: number;
}

export interface Published {
  /** Rows looked at; fewer than `limit` means that nothing more was waiting. */
  picked: number;
  /** Rows done with: published, or moved on before. */
  settled: number;
  /** Rows that are published now: given to BullMQ and marked. */
  published: number;
  /** Ids of rows that BullMQ refused, each by itself; after five refusals a row has failed. */
  refused: string[];
}

/**
 * Publishes up to `limit` rows of outbox.ready as delayed BullMQ jobs: by priority, then the earliest due. Rows held by
 * another bridge are skipped, never waited for, so bridges may run side by side. Rejects when the queue backend or
 * Postgres does not answer; nothing is marked then and the rows are picked again.
 *
 * No lock on outbox.jobs is held while BullMQ is called, so a business transaction that cancels a job never waits for
 * Redis. What a crash leaves behind after each step:
 *   1 pick    locks on outbox.ready, gone with the session: the rows are picked again
 *   2 add     BullMQ has the jobs, the rows are pending: the next publish adds the same ids, which BullMQ ignores; a
 *             worker that is faster claims the pending row
 *   3 settle  mark and remove, rolled back with the session: as after 2
 *   4 commit  without waiting for the disk: a crash of the database may leave us where 2 does. Whatever a worker commits
 *             about a row whose mark it saw comes later in the log, and is never kept without it. The rows are locked until
 *             the commit is through, and a quick worker is already asking for them.
 */
export async function publishBatch(options: PublishOptions): Promise<Published> {
  const published = await withTransaction(options.pool, (client) => publishPicked(client, options), {
    mayBeLost: true, // 4
  });
  reached('publish.committed');
  return published;
}

async function publishPicked(client: PoolClient, options: PublishOptions): Promise<Published> {
  const { rows } = await client.query<ReadyRow>(PICK_READY, [options.limit]); // 1
  reached('publish.picked');
  if (rows.length === 0) return { picked: 0, settled: 0, published: 0, refused: [] };
  const current = rows.filter((row) => row.current);
  const refused = await addToQueues(current, options.queueOf); // 2
  reached('publish.added');
  if (refused.length > 0) await noteRefusals(client, refused);
  const { published, settled } = await settle(client, rows, refused); // 3
  reached('publish.marked');
  return { picked: rows.length, settled, published, refused: refused.map(({ row }) => row.jobId) };
}

async function addToQueues(rows: ReadyRow[], queueOf: (name: string) => Queue): Promise<Refused<ReadyRow>[]> {
  const refused: Refused<ReadyRow>[] = [];
  for (const name of new Set(rows.map(({ queue }) => queue))) {
    const ofQueue = rows.filter(({ queue }) => queue === name);
    // Data that was lost has lost the pause with it: nothing is added to a queue that would run what it must not.
    if (ofQueue.some(({ paused }) => paused)) await setPaused(queueOf(name), true);
    refused.push(...(await addJobs(queueOf(name), ofQueue.map(toBulkJob))));
  }
  // Only next to a job that was accepted is a refusal the row's own; otherwise nothing says that the backend takes any.
  const [first] = refused;
  if (first && refused.length === rows.length) throw first.error;
  return refused;
}

/**
 * BullMQ adds the delay to its caller's clock unless told the time: both are the database's here, so the clock of the
 * bridge does not matter. A due time between two milliseconds rounds up: never early.
 */
function toBulkJob(row: ReadyRow, place: number): BulkJob<ReadyRow> {
  const timestamp = Math.floor(row.nowMs);
  return {
    row,
    name: row.name,
    data: row.payload,
    opts: {
      jobId: `${row.jobId}-${row.generation}`,
      timestamp,
      delay: Math.max(0, Math.ceil(row.dueMs) - timestamp),
      priority: toBullPriority(row.priority, findDefinition(row.name)?.prioritized ?? false),
      attempts: GENEROUS_ATTEMPTS,
      backoff: { type: 'row' },
      removeOnComplete: place < KEPT_OF_A_BATCH ? KEEP_COMPLETED : true,
      removeOnFail: KEEP_FAILED,
    },
  };
}

async function noteRefusals(client: PoolClient, refused: Refused<ReadyRow>[]): Promise<void> {
  const errors = refused.map(({ error }) => error.message.slice(0, LONGEST_ERROR));
  await client.query(NOTE_REFUSAL, [...idsOf(refused.map(({ row }) => row)), errors]);
}

/** Longest text kept of an error. */
const LONGEST_ERROR = 1_000;

/** What stays in the outbox is looked at again a little later, not in a busy loop. */
async function settle(
  client: PoolClient,
  rows: ReadyRow[],
  refused: Refused<ReadyRow>[],
): Promise<Pick<Published, 'published' | 'settled'>> {
  const refusedRows = new Set(refused.map(({ row }) => row));
  const isAdded = (row: ReadyRow) => row.current && !refusedRows.has(row);
  const added = rows.filter(isAdded);
  const { rows: answer } = await client.query<{ marked: number; removed: number }>(SETTLE, [
    ...idsOf(rows),
    rows.map(({ epoch }) => epoch),
    rows.map(isAdded),
  ]);
  const [{ marked, removed } = { marked: 0, removed: 0 }] = answer;
  if (marked < added.length) await client.query(REMOVE_CANCELLED, idsOf(added));
  if (removed < rows.length) await client.query(PUT_OFF, idsOf(rows));
  return { published: marked, settled: removed };
}

function idsOf(rows: ReadyRow[]): [string[], number[]] {
  return [rows.map(({ jobId }) => jobId), rows.map(({ generation }) => generation)];
}

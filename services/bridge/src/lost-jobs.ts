import { SECOND, type JobPlace, type Pool, type QueueBackend } from '@outbox/core';
import { BEGINNING, type Cursor } from './cursor.ts';
import { Findings } from './repairs.ts';
import { unpublish, type Published } from './unpublish.ts';

/** Rows of one statement, and of one look at the backend. */
const BATCH = 1_000;

/** The instant is the statement's: it can be looked up in an index, which clock_timestamp() cannot. */
const FIND_OPEN = /* sql */ `
  select
    j.id, j.generation, j.queue, j.scheduled_at::text as "scheduledAt",
    extract(epoch from statement_timestamp() - j.scheduled_at)::float8 * 1000 as "overdueMs",
    extract(epoch from statement_timestamp())::float8 * 1000 as "nowMs"
  from outbox.jobs j
  where j.finished_at is null
    and j.queue = any ($4)
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < statement_timestamp() - interval '30 s'))
    and j.scheduled_at < statement_timestamp() + $1 * interval '1 ms'
    and (j.scheduled_at, j.id) > ($2::timestamptz, $3::bigint)
  order by j.scheduled_at, j.id
  limit ${BATCH}`;

interface OpenRow extends Published, Cursor {
  queue: string;
  /** Negative: not due yet. */
  overdueMs: number;
  /** Epoch milliseconds, by the database's clock. */
  nowMs: number;
}

/** Thirty years: everything. */
export const EVER_MS = 1_000_000_000_000;

export interface LookOptions {
  pool: Pool;
  backend: QueueBackend;
  queues: readonly string[];
}

export interface LostJob extends Published {
  queue: string;
  /** What BullMQ has of it instead. */
  place: Exclude<JobPlace, 'open'> | 'late';
}

/** A job due for so long and not run is looked for; shorter, it may just be waiting its turn. */
export const OVERDUE_MS = 15 * SECOND;

/** A claim puts a job off for the rest of a lease; what BullMQ holds back for longer, other hands or a wrong clock put off. */
const LATE_MS = 30 * SECOND;

/**
 * Looks at up to 1,000 published rows behind `cursor` that are due within `withinMs` (negative: overdue for so long).
 * Returns those that BullMQ does not mean to run, or not in time, and where to go on: the beginning after the last. Some may
 * have moved on since they were read, when a worker ran them meanwhile.
 */
export async function findLost(
  { pool, backend, queues }: LookOptions,
  { cursor, withinMs }: { cursor: Cursor; withinMs: number },
): Promise<{ lost: LostJob[]; next: Cursor }> {
  const { rows } = await pool.query<OpenRow & Record<string, unknown>>(FIND_OPEN, [
    withinMs,
    cursor.scheduledAt,
    cursor.id,
    queues,
  ]);
  const lost: LostJob[] = [];
  for (const queue of new Set(rows.map((row) => row.queue))) {
    const ofQueue = rows.filter((row) => row.queue === queue);
    const places = await backend.placesOf(queue, ofQueue.map(bullJobId));
    const late = await findLate(backend, queue, ofQueue);
    for (const row of ofQueue) {
      const place = places.get(bullJobId(row)) ?? 'missing';
      if (place !== 'open') lost.push({ id: row.id, generation: row.generation, queue, place });
      else if (late.has(row)) lost.push({ id: row.id, generation: row.generation, queue, place: 'late' });
    }
  }
  const last = rows.at(-1);
  return { lost, next: rows.length === BATCH && last ? last : BEGINNING };
}

async function findLate(backend: QueueBackend, queue: string, rows: OpenRow[]): Promise<Set<OpenRow>> {
  const overdue = rows.filter(({ overdueMs }) => overdueMs > OVERDUE_MS);
  if (overdue.length === 0) return new Set();
  const delayedUntil = await backend.delayedUntil(queue, overdue.map(bullJobId));
  return new Set(overdue.filter((row) => (delayedUntil.get(bullJobId(row)) ?? 0) > row.nowMs + LATE_MS));
}

function bullJobId({ id, generation }: Published): string {
  return `${id}-${generation}`;
}

/** Takes these rows back as far as they have not moved on, and says how many of each class those were. */
export async function takeBackLost(pool: Pool, queues: readonly string[], lost: LostJob[]): Promise<Findings> {
  return findingsOf(queues, lost, (rows, place) =>
    unpublish(pool, rows, { remove: place === 'stranded' || place === 'late' }),
  );
}

const COUNT_STILL_LOST = /* sql */ `
  select count(*)::int as count
  from unnest($1::bigint[], $2::int[]) as l (id, generation)
  join outbox.jobs j on j.id = l.id and j.generation = l.generation
  where j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp())`;

/** How many `takeBackLost` would take back. Changes nothing. */
export async function countLost(pool: Pool, queues: readonly string[], lost: LostJob[]): Promise<Findings> {
  return findingsOf(queues, lost, async (rows) => {
    const { rows: answer } = await pool.query<{ count: number }>(COUNT_STILL_LOST, [
      rows.map(({ id }) => id),
      rows.map(({ generation }) => generation),
    ]);
    return answer[0]?.count ?? 0;
  });
}

async function findingsOf(
  queues: readonly string[],
  lost: LostJob[],
  count: (rows: LostJob[], place: LostJob['place']) => Promise<number>,
): Promise<Findings> {
  const findings = new Findings(queues);
  for (const queue of queues) {
    for (const place of ['missing', 'ended', 'stranded', 'late'] as const) {
      const rows = lost.filter((job) => job.queue === queue && job.place === place);
      if (rows.length > 0) findings.add(queue, place, await count(rows, place));
    }
  }
  return findings;
}

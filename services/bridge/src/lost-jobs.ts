import type { JobPlace, Pool, QueueBackend } from '@outbox/core';
import { Findings } from './repairs.ts';
import { unpublish, type Published } from './unpublish.ts';

/** Rows of one statement, and of one look at the backend. */
const BATCH = 1_000;

const FIND_OPEN = /* sql */ `
  select j.id, j.generation, j.queue, j.scheduled_at::text as "scheduledAt"
  from outbox.jobs j
  join outbox.queues q on q.name = j.queue
  where j.finished_at is null
    and j.queue = any ($4)
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp() - interval '30 s'))
    and j.scheduled_at < clock_timestamp() + $1 * interval '1 ms'
    and (j.scheduled_at, j.id) > ($2::timestamptz, $3::bigint)
  order by j.scheduled_at, j.id
  limit ${BATCH}`;

interface OpenRow extends Published, Cursor {
  queue: string;
}

/** Where a scan goes on: behind this row. The instant is Postgres' own text, since a Date has no microseconds. */
export interface Cursor {
  scheduledAt: string;
  id: string;
}

export const BEGINNING: Cursor = { scheduledAt: '-infinity', id: '0' };

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
  place: Exclude<JobPlace, 'open'>;
}

/**
 * Looks at up to 1,000 published rows behind `cursor` that are due within `withinMs` (negative: overdue for so long).
 * Returns those that BullMQ does not mean to run, and where to go on: the beginning after the last. Some may have moved on
 * since they were read, when a worker ran them meanwhile.
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
    for (const row of ofQueue) {
      const place = places.get(bullJobId(row)) ?? 'missing';
      if (place !== 'open') lost.push({ id: row.id, generation: row.generation, queue, place });
    }
  }
  const last = rows.at(-1);
  return { lost, next: rows.length === BATCH && last ? last : BEGINNING };
}

function bullJobId({ id, generation }: Published): string {
  return `${id}-${generation}`;
}

/** Takes these rows back as far as they have not moved on, and says how many of each class those were. */
export async function takeBackLost(pool: Pool, queues: readonly string[], lost: LostJob[]): Promise<Findings> {
  return findingsOf(queues, lost, (rows, place) => unpublish(pool, rows, { remove: place === 'stranded' }));
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
    for (const place of ['missing', 'ended', 'stranded'] as const) {
      const rows = lost.filter((job) => job.queue === queue && job.place === place);
      if (rows.length > 0) findings.add(queue, place, await count(rows, place));
    }
  }
  return findings;
}

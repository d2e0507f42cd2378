import type { Pool, QueueBackend } from '@outbox/core';
import type { Published } from './unpublish.ts';

/** Jobs of one look at the backend. */
const BATCH = 1_000;

/**
 * Orphans: jobs that BullMQ means to run although their row has ended, is gone, or lives under another generation. A worker
 * would drop them; until then they take room, and a board shows them.
 *
 * The backend is asked before the row is. A row commits before its job is added, and a new generation before any job of it
 * is, so what the backend has and the row does not know of is no job to come. What a cancel has asked to be taken out is on
 * its way and no orphan. What is still found may be in flight: a worker took the job and ended the row in between, or a row
 * was cancelled while it was being published, which takes its job out again a moment later. So every find is a suspect,
 * and only one that is found a second time, a while later, is an orphan.
 */
const SUSPECT = /* sql */ `
  select b.id, b.generation
  from unnest($2::bigint[], $3::int[]) as b (id, generation)
  left join outbox.jobs j on j.id = b.id
  where (j.id is null or j.finished_at is not null or j.generation <> b.generation or j.queue <> $1)
    and not exists (
      select from outbox.removals r where r.queue = $1 and r.job_id = b.id and r.generation = b.generation
    )
  order by b.id`;

const ASK_TO_REMOVE = /* sql */ `
  insert into outbox.removals (queue, job_id, generation)
  select $1, b.id, b.generation from unnest($2::bigint[], $3::int[]) as b (id, generation)`;

export interface OrphanOptions {
  pool: Pool;
  backend: QueueBackend;
}

/** Looks at a page of the jobs that wait in a queue. `next` is undefined after the last. */
export async function findSuspects(
  { pool, backend }: OrphanOptions,
  queue: string,
  cursor: string | undefined,
): Promise<{ suspects: Published[]; next: string | undefined }> {
  const { ids, next } = await backend.waitingJobs(queue, cursor, BATCH);
  return { suspects: await suspectsAmong(pool, queue, ids.flatMap(parseJobId)), next };
}

/** Of these suspects, those that are still waiting to be run and still have no row to be run for. */
export async function confirmOrphans(
  { pool, backend }: OrphanOptions,
  queue: string,
  suspects: Published[],
): Promise<Published[]> {
  if (suspects.length === 0) return [];
  const places = await backend.placesOf(
    queue,
    suspects.map(({ id, generation }) => `${id}-${generation}`),
  );
  const open = suspects.filter(({ id, generation }) => places.get(`${id}-${generation}`) === 'open');
  return suspectsAmong(pool, queue, open);
}

/** Has them taken out of BullMQ, as a cancelled job is. */
export async function removeOrphans(pool: Pool, queue: string, orphans: Published[]): Promise<void> {
  if (orphans.length > 0) await pool.query(ASK_TO_REMOVE, [queue, ...columnsOf(orphans)]);
}

async function suspectsAmong(pool: Pool, queue: string, jobs: Published[]): Promise<Published[]> {
  if (jobs.length === 0) return [];
  const { rows } = await pool.query<Published & Record<string, unknown>>(SUSPECT, [queue, ...columnsOf(jobs)]);
  return rows;
}

function columnsOf(jobs: Published[]): [string[], number[]] {
  return [jobs.map(({ id }) => id), jobs.map(({ generation }) => generation)];
}

/** A job whose id is no `<id>-<generation>` is not ours: it is left alone. */
function parseJobId(jobId: string): Published[] {
  const [, id, generation] = /^([1-9]\d{0,17})-([1-9]\d{0,8})$/.exec(jobId) ?? [];
  return id === undefined ? [] : [{ id, generation: Number(generation) }];
}

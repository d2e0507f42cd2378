import { SECOND, type Pool } from '@outbox/core';
import { waitFor } from '@outbox/testing';

/** Rows of one call: what a busy application would write in one transaction. */
const CHUNK = 10_000;

const ENQUEUE = (scheduledAt: string) => /* sql */ `
  select count(*)::int as added
  from outbox.enqueue_many(
    name => $1,
    rows => (
      select jsonb_agg(
        jsonb_build_object('key', id, 'payload', jsonb_build_object('autoSyncId', id), 'scheduled_at', ${scheduledAt})
      )
      from (select gen_random_uuid() as id, n from generate_series($2::int, $3::int) as s (n)) as ids
    )
  )`;

/**
 * Enqueues jobs that look at an auto sync which is not there, find that out by one indexed read, and end as skipped: the
 * cheapest real job. `scheduledAt` is an SQL expression; `n` in it is the number of the job, from 0.
 */
export async function enqueueChecks(pool: Pool, job: string, count: number, scheduledAt: string): Promise<void> {
  for (let from = 0; from < count; from += CHUNK) {
    await pool.query(ENQUEUE(scheduledAt), [job, from, Math.min(from + CHUNK, count) - 1]);
  }
}

/** Resolves when nothing waits for the bridge any more. Throws when that is not so at `deadlineMs`, when the first is due. */
export async function allPublished(pool: Pool, deadlineMs: number): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await pool.query<{ left: number }>(
        'select count(*)::int as left from outbox.ready r where not r.far',
      );
      const left = rows[0]?.left;
      if (left !== 0) throw new Error(`${left} jobs were not published before the first was due.`);
    },
    { timeoutMs: deadlineMs - Date.now(), intervalMs: 200 },
  );
}

/** Time to enqueue and publish so many, before the first is due. */
export function headStartMs(jobs: number): number {
  return 15 * SECOND + jobs * 0.5;
}

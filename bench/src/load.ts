import type { Pool } from '@outbox/core';

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
      from (select gen_random_uuid() as id from generate_series(1, $2::int)) as ids
    )
  )`;

/**
 * Enqueues jobs that look at an auto sync which is not there, find that out by one indexed read, and end as skipped: the
 * cheapest real job. `scheduledAt` is an SQL expression.
 */
export async function enqueueChecks(pool: Pool, job: string, count: number, scheduledAt: string): Promise<void> {
  for (let left = count; left > 0; left -= CHUNK) {
    await pool.query(ENQUEUE(scheduledAt), [job, Math.min(left, CHUNK)]);
  }
}

import { reached, withTransaction, type Pool } from '@outbox/core';
import type { Queue } from 'bullmq';

const TAKE = /* sql */ `
  delete from outbox.removals r
  where r.id in (
    select t.id from outbox.removals t order by t.id limit $1 for update skip locked
  )
  returning r.queue, r.job_id || '-' || r.generation as "bullJobId"`;

export interface RemovalOptions {
  pool: Pool;
  queueOf: (name: string) => Queue;
  limit: number;
}

/**
 * Takes up to `limit` cancelled jobs out of BullMQ and returns how many were asked for. A job that is not there any more,
 * or that a worker has just taken, is left as it is: the claim drops it. Rejects when the queue backend does not answer; the
 * removals stay then. A crash before the commit leaves them too, and removing twice does nothing.
 */
export async function carryOutRemovals({ pool, queueOf, limit }: RemovalOptions): Promise<number> {
  return withTransaction(pool, async (client) => {
    const { rows } = await client.query<{ queue: string; bullJobId: string }>(TAKE, [limit]);
    reached('removals.taken');
    await Promise.all(rows.map(({ queue, bullJobId }) => queueOf(queue).remove(bullJobId)));
    reached('removals.done');
    return rows.length;
  });
}

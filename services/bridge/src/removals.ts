import { withTransaction, type Pool } from '@outbox/core';
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
 * or that a worker has just taken, is no error: the claim drops it. Rejects when the queue backend does not answer; the
 * removals stay then. A crash before the commit leaves them too, and removing twice does nothing.
 */
export async function carryOutRemovals({ pool, queueOf, limit }: RemovalOptions): Promise<number> {
  return withTransaction(pool, async (client) => {
    const { rows } = await client.query<{ queue: string; bullJobId: string }>(TAKE, [limit]);
    await Promise.all(rows.map(({ queue, bullJobId }) => removeFrom(queueOf(queue), bullJobId)));
    return rows.length;
  });
}

async function removeFrom(queue: Queue, bullJobId: string): Promise<void> {
  // Rejects for a job that a worker holds; false for one that is not there.
  await queue.remove(bullJobId).catch((error: unknown) => {
    if (!(error instanceof Error) || !/locked|could not be removed/i.test(error.message)) throw error;
  });
}

import type { Logger, Pool } from '@outbox/core';
import type { Queue } from 'bullmq';

const READ_PAUSES = /* sql */ `
  select q.name, q.paused_at is not null as paused
  from outbox.queues q
  where q.name = any ($1)
  order by q.name
  limit $2`;

export interface PauseOptions {
  pool: Pool;
  queues: readonly string[];
  queueOf: (name: string) => Queue;
  log: Logger;
}

/**
 * Sets BullMQ's pause of each queue from outbox.queues, whoever changed it there. Rejects when one cannot be set; those
 * before it are. A pause that commits meanwhile is applied by the next call, and the claim refuses the queue at once.
 */
export async function applyPauses({ pool, queues, queueOf, log }: PauseOptions): Promise<void> {
  const { rows } = await pool.query<{ name: string; paused: boolean }>(READ_PAUSES, [queues, queues.length]);
  for (const { name, paused } of rows) {
    if (await setPaused(queueOf(name), paused)) log.info({ queue: name, paused }, 'pause applied');
  }
}

/** Whether a queue is to be paused. */
export async function readPause(pool: Pool, name: string): Promise<boolean> {
  const { rows } = await pool.query<{ paused: boolean }>(READ_PAUSES, [[name], 1]);
  return rows[0]?.paused ?? false;
}

/** Returns whether anything had to be changed. */
export async function setPaused(queue: Queue, paused: boolean): Promise<boolean> {
  if ((await queue.isPaused()) === paused) return false;
  await (paused ? queue.pause() : queue.resume());
  return true;
}

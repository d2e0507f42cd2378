import type { Logger, Pool } from '@outbox/core';
import type { Queue } from 'bullmq';

/** What outbox.queues says about a queue: decided by a person, or by its jobs' definitions. */
interface Controls {
  paused: boolean;
  /** Most jobs at the same time in all workers together; null means as many as they like. */
  concurrency: number | null;
}

const READ_CONTROLS = /* sql */ `
  select
    q.name, q.paused_at is not null as paused, coalesce(q.operator_concurrency, q.concurrency) as concurrency
  from outbox.queues q
  where q.name = any ($1)
  order by q.name
  limit $2`;

export interface ControlOptions {
  pool: Pool;
  queues: readonly string[];
  queueOf: (name: string) => Queue;
  log: Logger;
}

/**
 * Sets BullMQ's pause and global concurrency of each queue from outbox.queues, whoever changed them there. Rejects when one
 * cannot be set; those before it are. What commits meanwhile is applied by the next call; a pause the claim obeys at once.
 */
export async function applyControls({ pool, queues, queueOf, log }: ControlOptions): Promise<void> {
  for (const { name, ...controls } of await readControls(pool, queues)) {
    if (await setControls(queueOf(name), controls)) log.info({ queue: name, ...controls }, 'queue controls applied');
  }
}

/** As above, of one queue whose data is new: before anything is added to it. */
export async function prepareQueue(pool: Pool, queue: Queue): Promise<void> {
  for (const controls of await readControls(pool, [queue.name])) await setControls(queue, controls);
}

async function readControls(pool: Pool, queues: readonly string[]) {
  const { rows } = await pool.query<Controls & { name: string }>(READ_CONTROLS, [queues, queues.length]);
  return rows;
}

/** Returns whether anything had to be changed. */
async function setControls(queue: Queue, { paused, concurrency }: Controls): Promise<boolean> {
  const pauseChanged = await setPaused(queue, paused);
  const concurrencyChanged = await setConcurrency(queue, concurrency);
  return pauseChanged || concurrencyChanged;
}

/** Returns whether anything had to be changed. */
export async function setPaused(queue: Queue, paused: boolean): Promise<boolean> {
  if ((await queue.isPaused()) === paused) return false;
  await (paused ? queue.pause() : queue.resume());
  return true;
}

async function setConcurrency(queue: Queue, concurrency: number | null): Promise<boolean> {
  if ((await queue.getGlobalConcurrency()) === concurrency) return false;
  await (concurrency === null ? queue.removeGlobalConcurrency() : queue.setGlobalConcurrency(concurrency));
  return true;
}

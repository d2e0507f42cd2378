import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, type Logger, type Pool, type QueueBackend } from '@outbox/core';
import { countOlder, followEpoch, takeBackOlder } from './epochs.ts';
import { lookThrough } from './look-through.ts';
import { addRepaired, Findings, setDrift } from './repairs.ts';

export interface ReconcileOptions {
  pool: Pool;
  backend: QueueBackend;
  queues: readonly string[];
  dryRun: boolean;
  /** Does what has to be done with a queue's new data before anything is published into it. */
  prepare: (queue: string) => Promise<unknown>;
  log: Logger;
}

/** Longer than a publish or a finish is under way, as a rule; what takes longer is at worst counted. */
const SETTLE_MS = 1 * SECOND;

/**
 * Compares every open row with BullMQ and the other way round, once and as fast as it goes, and returns what differs by
 * queue and class. Unless it is a dry run, rows that BullMQ lost are pending again, to be published by the bridge, and it
 * has been asked to take out what has no row. May run beside bridges: each difference is repaired once.
 */
export async function reconcileOnce(options: ReconcileOptions): Promise<Findings> {
  const { pool, queues, dryRun } = options;
  const found = dryRun ? await countOldEpochs(options) : await repairEpochs(options);
  // Rows of data that is gone as a whole are counted already.
  const gone = new Set(found.entries().flatMap(({ queue, found: count }) => (dryRun && count > 0 ? [queue] : [])));
  const look = lookThrough({
    ...options,
    queues: queues.filter((queue) => !gone.has(queue)),
    followEpochs: async () => found.addAll(await repairEpochs(options)),
  });
  for (;;) {
    const step = await look.next();
    if (step.done) {
      found.addAll(step.value);
      break;
    }
    if (step.value === 'settle') await wait(SETTLE_MS);
  }
  if (!dryRun) await setDrift(pool, found);
  return found;
}

async function countOldEpochs({ pool, backend, queues }: ReconcileOptions): Promise<Findings> {
  const found = new Findings(queues);
  for (const queue of queues) found.add(queue, 'epoch', await countOlder(pool, backend, queue));
  return found;
}

async function repairEpochs(options: ReconcileOptions): Promise<Findings> {
  const { pool, queues } = options;
  for (const queue of queues) await followEpoch(options, queue, new Map());
  const { returned } = await takeBackOlder(pool, queues);
  await addRepaired(pool, returned);
  return returned;
}

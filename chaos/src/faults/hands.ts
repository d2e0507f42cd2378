import { SECOND } from '@outbox/core';
import type { Queue } from 'bullmq';
import { QUEUES } from '../cast.ts';
import type { Stage } from '../stage.ts';
import { number, text, type FaultKind } from './fault.ts';

/** What somebody may do to a queue with BullMQ alone, past the outbox: as with a board of another make. */
const DEEDS: Record<string, (queue: Queue, many: number, stage: Stage) => Promise<unknown>> = {
  remove: async (queue, many) => {
    for (const job of await queue.getJobs(['delayed', 'waiting'], 0, many)) await job.remove();
  },
  promote: async (queue, many) => {
    for (const job of await queue.getJobs(['delayed'], 0, many)) await job.promote();
  },
  'retry what is finished': async (queue, many) => {
    for (const job of await queue.getJobs(['completed', 'failed'], 0, many)) {
      await job.retry((await job.isFailed()) ? 'failed' : 'completed');
    }
  },
  'mark as failed': async (queue, many, { redisClient }) => {
    for (const id of await redisClient.zrange(queue.toKey('delayed'), 0, many)) {
      await redisClient.multi().zrem(queue.toKey('delayed'), id).zadd(queue.toKey('failed'), Date.now(), id).exec();
    }
  },
  clean: async (queue, many) => {
    await queue.clean(0, many, 'completed');
    await queue.clean(0, many, 'delayed');
    await queue.clean(0, many, 'wait');
  },
  drain: (queue) => queue.drain(true),
  'add a stranger': (queue, many) => queue.add('stranger', { many }),
};

const foreignHands: FaultKind = {
  name: 'other hands in BullMQ',
  weight: 10,
  plan: (random) => {
    const queue = random.pick(QUEUES);
    return {
      forMs: 0,
      breaks: `hands on ${queue}`,
      how: { queue, deed: random.pick(Object.keys(DEEDS)), many: random.int(1, 60) },
    };
  },
  inflict: async (fault, stage) => {
    const queue = stage.queue(text(fault, 'queue'));
    // A job may have moved on between our look and our deed; who clicks on a board is told so, and that is all.
    const error = await DEEDS[text(fault, 'deed')]?.(queue, number(fault, 'many'), stage).catch((e: unknown) => e);
    return error instanceof Error ? error.message : undefined;
  },
};

const paused: FaultKind = {
  name: 'queue paused in BullMQ',
  weight: 2,
  plan: (random) => {
    const queue = random.pick(QUEUES);
    return { forMs: random.int(2, 8) * SECOND, breaks: `pause of ${queue}`, how: { queue } };
  },
  inflict: async (fault, stage) => {
    const queue = stage.queue(text(fault, 'queue'));
    await queue.pause();
    await stage.hold(fault.forMs);
    await stage.persist(() => queue.resume());
  },
};

export const handFaults: FaultKind[] = [foreignHands, paused];

import { SECOND } from '@outbox/core';
import type { Stage } from '../stage.ts';
import { number, text, type FaultKind } from './fault.ts';

const SERVER = 'the Redis server';

const killedPersisted: FaultKind = {
  name: 'Redis killed (-9), back with its data',
  weight: 3,
  plan: (random) => ({ forMs: random.int(100, 5_000), breaks: SERVER, how: {} }),
  inflict: (fault, stage) => stage.redis.killAndRestart(() => stage.hold(fault.forMs)),
};

const killedEmpty: FaultKind = {
  name: 'Redis killed (-9), back empty',
  weight: 3,
  plan: (random) => ({ forMs: random.int(100, 5_000), breaks: SERVER, how: {} }),
  inflict: (fault, stage) =>
    stage.redis.killAndRestart(async () => {
      await stage.hold(fault.forMs);
      await stage.redis.wipe();
    }),
};

const flushed: FaultKind = {
  name: 'FLUSHALL',
  weight: 3,
  plan: () => ({ forMs: 0, breaks: SERVER, how: {} }),
  inflict: async (_fault, stage) => void (await stage.redisClient.flushall()),
};

/** The replica that takes over had not heard of the last seconds. */
const staleFailover: FaultKind = {
  name: 'Redis failed over to older data',
  weight: 3,
  plan: (random) => ({ forMs: random.int(2, 10) * SECOND, breaks: SERVER, how: {} }),
  inflict: async (fault, stage) => {
    const putBack = await stage.redis.saveCopy(String(fault.id));
    await stage.hold(fault.forMs);
    await stage.redis.killAndRestart(putBack);
  },
};

const full: FaultKind = {
  name: 'Redis full (OOM)',
  weight: 3,
  plan: (random) => ({ forMs: random.int(3, 8) * SECOND, breaks: SERVER, how: {} }),
  inflict: async (fault, stage) => {
    const memory = await stage.redisClient.info('memory');
    const used = Number(/used_memory:(\d+)/.exec(memory)?.[1]);
    await stage.redisClient.config('SET', 'maxmemory', String(Math.floor(used * 0.9)));
    await stage.hold(fault.forMs);
    await stage.redisClient.config('SET', 'maxmemory', '0');
  },
};

const LOSABLE = ['delayed', 'wait', 'jobs', 'locks', 'meta', 'active'] as const;

/** Part of a queue's data is gone, as after an eviction or a hash slot that was lost. */
const partialLoss: FaultKind = {
  name: 'Redis lost some keys',
  weight: 5,
  plan: (random) => ({
    forMs: 0,
    breaks: SERVER,
    how: { what: random.pick(LOSABLE), share: random.int(1, 10) / 10, offset: random.int(0, 9) },
  }),
  inflict: async (fault, stage) => {
    const keys = await keysToLose(text(fault, 'what'), stage);
    const share = number(fault, 'share') * 10;
    const lost = keys.filter((_key, index) => (index + number(fault, 'offset')) % 10 < share);
    if (lost.length > 0) await stage.redisClient.del(...lost);
    return `${lost.length} keys`;
  },
};

const MOST_KEYS = 5_000;

async function keysToLose(what: string, { redisClient, queues }: Stage): Promise<string[]> {
  const perQueue = await Promise.all(
    queues.map(async (queue) => {
      if (what !== 'jobs' && what !== 'locks') return [queue.toKey(what)];
      const ids = await redisClient.zrange(queue.toKey('delayed'), 0, MOST_KEYS);
      const running = await redisClient.lrange(queue.toKey('active'), 0, MOST_KEYS);
      return what === 'jobs'
        ? [...ids, ...running].map((id) => queue.toKey(id))
        : running.map((id) => `${queue.toKey(id)}:lock`);
    }),
  );
  return perQueue.flat();
}

export const redisFaults: FaultKind[] = [killedPersisted, killedEmpty, flushed, staleFailover, full, partialLoss];

import { randomUUID } from 'node:crypto';
import { Queue } from 'bullmq';
import { inChunks, noteStarts, type Contestant } from './contestant.ts';
import { startPeer, until } from './peer.ts';

const CONCURRENCY = 200;
const QUEUE = 'bullmq-alone';

/** The engine by itself: no transaction, no record, nothing survives the loss of Redis. The ceiling of what is built on it. */
export const bullmqAlone: Contestant = {
  name: 'BullMQ alone',
  settings: `addBulk, one worker, concurrency ${CONCURRENCY}, removeOnComplete`,
  start: async ({ redis }, options = {}) => {
    const connection = redis.duplicate({ maxRetriesPerRequest: null });
    const queue = new Queue(QUEUE, { connection });
    const worker = await startPeer('bullmq.mjs', {
      REDIS_PORT: String(redis.options.port),
      QUEUE,
      CONCURRENCY: String(CONCURRENCY),
      ...noteStarts(options),
    });
    let added = 0;
    return {
      add: (count) =>
        inChunks(count, async (chunk) => {
          const jobs = Array.from({ length: chunk }, (_, n) => ({
            name: 'no-op',
            data: { id: String(added + n) },
            opts: { removeOnComplete: true },
          }));
          await queue.addBulk(jobs);
          added += chunk;
        }),
      addOne: async () => {
        const id = randomUUID();
        await queue.add('no-op', { id }, { removeOnComplete: true });
        added += 1;
        return id;
      },
      drained: () => until(() => worker.done >= added),
      stop: async () => {
        await worker.stop();
        await queue.close();
        connection.disconnect();
      },
    };
  },
};

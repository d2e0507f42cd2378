import { randomUUID } from 'node:crypto';
import { createPostgresBackend, Queue, runMigrations } from 'bullmq';
import pg from 'pg';
import type { Stage } from '../stage.ts';
import { inChunks, noteStarts, type Contestant } from './contestant.ts';
import { startPeer, until } from './peer.ts';

const CONCURRENCY = 200;
const QUEUE = 'bullmq-alone';

interface Opened {
  queue: Pick<Queue, 'add' | 'addBulk' | 'close'>;
  /** Where the worker finds the same queue. */
  env: Record<string, string>;
  close(): Promise<unknown>;
}

function bullmq(name: string, open: (stage: Stage) => Promise<Opened>): Contestant {
  return {
    name,
    settings: `addBulk, one worker, concurrency ${CONCURRENCY}, removeOnComplete`,
    start: async (stage, options = {}) => {
      const { queue, env, ...opened } = await open(stage);
      const worker = await startPeer('bullmq.mjs', {
        ...env,
        QUEUE,
        CONCURRENCY: String(CONCURRENCY),
        ...noteStarts(options),
      });
      let added = 0;
      return {
        ...(worker.pid !== undefined && { processes: new Map([[worker.pid, 'Worker']]) }),
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
          await opened.close();
        },
      };
    },
  };
}

/** The engine by itself: no transaction, no record, nothing survives the loss of Redis. The ceiling of what is built on it. */
export const bullmqAlone = bullmq('BullMQ alone', ({ redis }) => {
  const connection = redis.duplicate({ maxRetriesPerRequest: null });
  return Promise.resolve({
    queue: new Queue(QUEUE, { connection }),
    env: { REDIS_PORT: String(redis.options.port) },
    close: () => Promise.resolve(connection.disconnect()),
  });
});

/** The engine on its other backend. */
export const bullmqOnPostgres = bullmq('BullMQ on PostgreSQL', async ({ pool, databaseUrl }) => {
  const client = await pool.connect();
  try {
    await runMigrations(client);
  } finally {
    client.release(true); // it leaves its search_path behind
  }
  const connection = new pg.Pool({ connectionString: databaseUrl, max: 4, options: '-c search_path=bullmq' });
  return {
    queue: new Queue(QUEUE, { connection }, createPostgresBackend),
    env: { DATABASE_URL: databaseUrl },
    close: () => connection.end(),
  };
});

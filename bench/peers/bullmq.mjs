import { createPostgresBackend, Worker } from 'bullmq';
import pg from 'pg';
import { countDone, ready, started } from './count-done.mjs';

const { QUEUE, REDIS_PORT, DATABASE_URL, CONCURRENCY } = process.env;

const [connection, ...backend] =
  DATABASE_URL === undefined
    ? [{ host: '127.0.0.1', port: Number(REDIS_PORT), maxRetriesPerRequest: null }]
    : [
        new pg.Pool({ connectionString: DATABASE_URL, max: 12, options: '-c search_path=bullmq' }),
        createPostgresBackend,
      ];
const worker = new Worker(
  QUEUE,
  async ({ data }) => started(data.id),
  { connection, concurrency: Number(CONCURRENCY) },
  ...backend,
);
worker.on('completed', countDone);
worker.on('error', (error) => console.error(error.message));
await worker.waitUntilReady();
ready();
process.once('SIGTERM', () => void worker.close(true).then(() => process.exit()));

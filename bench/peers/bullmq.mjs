import { Worker } from 'bullmq';
import { countDone, ready, started } from './count-done.mjs';

const { QUEUE, REDIS_PORT, CONCURRENCY } = process.env;

const worker = new Worker(QUEUE, async ({ data }) => started(data.id), {
  connection: { host: '127.0.0.1', port: Number(REDIS_PORT), maxRetriesPerRequest: null },
  concurrency: Number(CONCURRENCY),
});
worker.on('completed', countDone);
worker.on('error', (error) => console.error(error.message));
await worker.waitUntilReady();
ready();
process.once('SIGTERM', () => void worker.close(true).then(() => process.exit()));

import { Logger, run } from 'graphile-worker';
import { countDone, ready, started } from './count-done.mjs';

const { DATABASE_URL, LOCAL_QUEUE, CONCURRENCY } = process.env;

const runner = await run({
  connectionString: DATABASE_URL,
  taskList: { 'no-op': async ({ id }) => started(id) },
  noHandleSignals: true,
  logger: new Logger(() => () => undefined),
  preset: {
    worker: {
      concurrentJobs: Number(CONCURRENCY),
      maxPoolSize: 12,
      ...(LOCAL_QUEUE
        ? { localQueue: { size: Number(LOCAL_QUEUE) }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
        : {}),
    },
  },
});
runner.events.on('job:complete', countDone);
ready();
process.once('SIGTERM', () => void runner.stop().then(() => process.exit()));

import { PgBoss } from 'pg-boss';
import { countDone, ready, started } from './count-done.mjs';

const { DATABASE_URL, BATCH_SIZE, WORKERS } = process.env;
const QUEUE = 'no-op';

const boss = new PgBoss({ connectionString: DATABASE_URL, max: 12, useListenNotify: true });
boss.on('error', (error) => console.error(error.message));
await boss.start();
await boss.createQueue(QUEUE, { notify: true });
await boss.work(
  QUEUE,
  {
    batchSize: Number(BATCH_SIZE),
    localConcurrency: Number(WORKERS),
    pollingIntervalSeconds: 0.5,
    notifyPollingIntervalSeconds: 0.5,
    burstWhenBatchFull: true,
  },
  async (jobs) => {
    for (const { data } of jobs) {
      started(data.id);
      countDone();
    }
  },
);
ready();
process.once('SIGTERM', () => void boss.stop({ graceful: false }).finally(() => process.exit()));

import {
  addHistory,
  captureLogs,
  createExplainedPool,
  createTestDatabase,
  createTestPrefix,
  waitFor,
} from '@outbox/testing';
import { admitNext } from './admit.ts';
import { addRow, addRows, JOB, openQueues } from './bridge.fixture.ts';
import { PublishLoop } from './publish-loop.ts';
import { publishBatch } from './publish.ts';
import { carryOutRemovals } from './removals.ts';

it('no statement on the way of a job reads a table whole', async () => {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  await addHistory(database, JOB);
  const explained = await createExplainedPool(database, { preferIndexes: true });
  const { pool } = explained;
  const { queueOf, queue, ...queues } = await openQueues(keys.redisUrl, keys.prefix);
  const options = { pool, queueOf, limit: 100 };
  const { log } = captureLogs();
  const loop = new PublishLoop({
    ...{ ...options, wakeUp: undefined, pollMs: 10, log },
    heldBy: () => undefined,
    fullBecause: () => undefined,
  });
  try {
    await addRows(database.pool, 250);
    await addRow(database.pool, { serialKey: 'a key' });
    await admitNext(pool);
    await publishBatch(options);
    await carryOutRemovals(options);
    loop.start();
    await waitFor(async () => expect(await queue.getJobCountByTypes('waiting')).toBeGreaterThan(200));
    await loop.stop();

    expect(explained.plans).toBeGreaterThan(5);
    expect(explained.scans).toEqual([]);
  } finally {
    await queues.close();
    await keys.removeKeys();
    await pool.end();
    await database.drop();
  }
});

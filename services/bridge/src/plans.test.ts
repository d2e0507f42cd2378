import { createPool } from '@outbox/core';
import {
  addHistory,
  captureLogs,
  collectSequentialScans,
  createTestDatabase,
  createTestPrefix,
  tellPlans,
} from '@outbox/testing';
import { admitNext } from './admit.ts';
import { addRow, addRows, JOB, openQueues } from './bridge.fixture.ts';
import { PublishLoop } from './publish-loop.ts';
import { publishBatch } from './publish.ts';
import { carryOutRemovals } from './removals.ts';

/** Small whatever the history: settings, or what is worked off at once. */
const SMALL = ['meta', 'queues', 'job_types', 'breakers', 'removals'];

it('no statement on the way of a job reads a table whole', async () => {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  await addHistory(database, JOB);
  await tellPlans(database);
  const pool = createPool({
    url: database.url,
    applicationName: 'outbox bridge',
    max: 3,
    preferIndexes: true,
    onError: () => undefined,
  });
  const seen = collectSequentialScans(pool);
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
    await loop.stop();

    expect(await queue.getJobCountByTypes('waiting')).toBeGreaterThan(100);
    expect(seen.plans).toBeGreaterThan(5);
    expect(seen.scans.filter(({ table }) => !SMALL.includes(table))).toEqual([]);
  } finally {
    await queues.close();
    await keys.removeKeys();
    await pool.end();
    await database.drop();
  }
});

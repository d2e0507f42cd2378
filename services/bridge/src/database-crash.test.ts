import { createPool, SECOND } from '@outbox/core';
import { createTestPrefix, startOwnPostgres } from '@outbox/testing';
import { addRows, countReady, countStates, openQueues } from './bridge.fixture.ts';
import { publishBatch } from './publish.ts';

test(
  'rows whose mark the database has forgotten are published again, as the same jobs',
  async () => {
    const server = await startOwnPostgres();
    const keys = createTestPrefix();
    const pool = createPool({ url: server.url, applicationName: 'bridge', max: 2, onError: () => undefined });
    const { queue, queueOf, ...queues } = await openQueues(keys.redisUrl, keys.prefix);
    const publish = () => publishBatch({ pool, queueOf, limit: 100 });
    try {
      await addRows(pool, 20);
      await server.holdLog();
      expect(await publish()).toMatchObject({ published: 20, settled: 20 });
      expect([await countStates(pool), await countReady(pool)]).toEqual([{ published: 20 }, 0]);

      await server.crash();

      expect([await countStates(pool), await countReady(pool)]).toEqual([{ pending: 20 }, 20]);
      expect(await publish()).toMatchObject({ published: 20, settled: 20 });
      expect([await countStates(pool), await countReady(pool)]).toEqual([{ published: 20 }, 0]);
      expect(await queue.getJobCountByTypes('waiting', 'delayed')).toBe(20);
    } finally {
      await queues.close();
      await keys.removeKeys();
      await pool.end();
      await server.stop();
    }
  },
  60 * SECOND,
);

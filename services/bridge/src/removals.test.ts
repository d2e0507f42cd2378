import { createPool } from '@outbox/core';
import { createTestDatabase, createTestPrefix, startFaultProxy, waitFor } from '@outbox/testing';
import { addRow, addRows, BACKENDS, createGate, openQueues, QUEUE, type BackendKind } from './bridge.fixture.ts';
import { publishBatch } from './publish.ts';
import { carryOutRemovals } from './removals.ts';

async function setup(kind: BackendKind) {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  // Stands before where BullMQ keeps its jobs, and nothing else.
  const proxy = await startFaultProxy(kind === 'redis' ? keys.redisUrl : database.url);
  const queues = await openQueues(proxy.url, keys.prefix, kind === 'postgres' ? proxy.url : undefined);
  const { pool } = database;
  const { queue, queueOf } = queues;
  return {
    pool,
    queue,
    queueOf,
    proxy,
    backend: queues.backend,
    url: database.url,
    publish: () => publishBatch({ pool, queueOf, limit: 500 }),
    remove: (limit = 100) => carryOutRemovals({ pool, queueOf, limit }),
    ask: (ids: string[], generation = 1) =>
      pool.query('insert into outbox.removals (queue, job_id, generation) select $1, unnest($2::bigint[]), $3', [
        QUEUE,
        ids,
        generation,
      ]),
    asked: async () => {
      const { rows } = await pool.query<{ count: number }>('select count(*)::int from outbox.removals');
      return rows[0]?.count;
    },
    close: async () => {
      await queues.close();
      await proxy.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

describe.each(BACKENDS)('on the %s backend', (kind) => {
  let bridge: Awaited<ReturnType<typeof setup>>;
  beforeEach(async () => {
    bridge = await setup(kind);
  });
  afterEach(() => bridge.close());

  it('takes waiting and delayed jobs out of BullMQ, and no others', async () => {
    const { pool, queue, publish, ask, remove, asked } = bridge;
    const [waiting, kept] = [await addRow(pool), await addRow(pool)];
    const delayed = await addRow(pool, { dueInMs: 60_000 });
    await publish();
    await ask([waiting, delayed]);

    expect(await remove()).toBe(2);

    expect((await queue.getJobs()).map(({ id }) => id)).toEqual([`${kept}-1`]);
    expect(await asked()).toBe(0);
  });

  it('removes the life of the row that was asked for, no older or newer one', async () => {
    const { queue, ask, remove } = bridge;
    for (const generation of [1, 2, 3]) await queue.add('any', {}, { jobId: `7-${generation}` });
    await ask(['7'], 2);
    await remove();
    expect((await queue.getJobs()).map(({ id }) => id).sort()).toEqual(['7-1', '7-3']);
  });

  it('a job that is not there any more is no error', async () => {
    const { ask, remove, asked } = bridge;
    await ask(['1', '2']);
    expect(await remove()).toBe(2);
    expect(await asked()).toBe(0);
    expect(await remove()).toBe(0);
  });

  it('a job that a worker holds is left to the worker', async () => {
    const { queue, backend, ask, remove, asked } = bridge;
    const [taken, goOn] = [createGate(), createGate()];
    const worker = backend.createWorker(
      QUEUE,
      async () => {
        taken.open();
        await goOn.opened;
        return 'finished';
      },
      {},
    );
    await queue.add('any', {}, { jobId: '8-1' });
    await taken.opened;
    await ask(['8']);

    expect(await remove()).toBe(1);

    expect(await asked()).toBe(0);
    goOn.open();
    await waitFor(async () => expect(await queue.getJobState('8-1')).toBe('completed'));
    await worker.close();
  });

  it('stays asked for while the queue backend is away', async () => {
    const { pool, queue, proxy, publish, ask, remove, asked } = bridge;
    await ask([await addRow(pool)]);
    await publish();
    await proxy.cut();
    await expect(remove()).rejects.toThrow();
    expect(await asked()).toBe(1);

    await proxy.restore();
    await waitFor(async () => expect(await remove()).toBe(1));
    expect(await queue.getJobs()).toEqual([]);
  });

  it('two bridges remove each job once, side by side', async () => {
    const { pool, queue, queueOf, url, publish, ask, remove, asked } = bridge;
    await ask(await addRows(pool, 100));
    await publish();
    const second = createPool({ url, applicationName: 'second', max: 2, onError: () => undefined });
    let total = 0;
    while ((await asked()) !== 0) {
      const counts = await Promise.all([remove(7), carryOutRemovals({ pool: second, queueOf, limit: 7 })]);
      for (const count of counts) total += count;
    }
    await second.end();
    expect(total).toBe(100);
    expect(await queue.getJobs()).toEqual([]);
  });
});

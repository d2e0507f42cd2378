import { createTestDatabase, createTestPrefix, waitFor } from '@outbox/testing';
import { addRow, addRows, BACKENDS, openQueues, readRow, type BackendKind } from './bridge.fixture.ts';
import { publishBatch } from './publish.ts';

/** BullMQ itself, made to refuse any group that holds a job of these rows, as it does with one bad job: adding nothing. */
async function setup(kind: BackendKind) {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  const queues = await openQueues(keys.redisUrl, keys.prefix, kind === 'postgres' ? database.url : undefined);
  const { pool } = database;
  const poisoned = new Set<string>();
  const failure = { error: new Error('Refused for a reason of its own') };
  const addBulk = queues.queue.addBulk.bind(queues.queue);
  let calls = 0;
  queues.queue.addBulk = (jobs) => {
    calls += 1;
    const isBad = jobs.some(({ opts }) => poisoned.has(opts?.jobId?.replace(/-\d+$/, '') ?? ''));
    return isBad ? Promise.reject(failure.error) : addBulk(jobs);
  };
  return {
    ...{ pool, poisoned, failure, queue: queues.queue },
    calls: () => calls,
    publish: () => publishBatch({ pool, queueOf: queues.queueOf, limit: 500 }),
    close: async () => {
      await queues.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

let bridge: Awaited<ReturnType<typeof setup>>;
afterEach(() => bridge.close());

describe.each(BACKENDS)('on the %s backend', (kind) => {
  beforeEach(async () => {
    bridge = await setup(kind);
  });

  it('one bad row among two hundred is found, and all others are published at once', async () => {
    const { pool, poisoned, publish, queue, calls } = bridge;
    const ids = await addRows(pool, 200);
    const bad = ids[123] ?? '';
    poisoned.add(bad);

    expect(await publish()).toEqual({ picked: 200, settled: 199, published: 199, refused: [bad] });
    expect(await queue.getWaitingCount()).toBe(199);
    expect(calls()).toBeLessThan(20);
    expect(await readRow(pool, bad)).toMatchObject({ state: 'pending', ready: [1] });
  });

  it('a row that is refused five times has failed, says why, and is not tried again', async () => {
    const { pool, poisoned, publish } = bridge;
    const bad = await addRow(pool);
    poisoned.add(bad);
    await waitFor(async () => {
      await addRow(pool); // what is accepted beside it shows that the refusal is its own
      await publish();
      expect(await readRow(pool, bad)).toMatchObject({ state: 'failed', ready: [] });
    });
    const { rows } = await pool.query('select publish_failures, reason, last_error from outbox.jobs where id = $1', [
      bad,
    ]);
    expect(rows).toEqual([
      { publish_failures: 5, reason: 'refused_by_queue', last_error: 'Refused for a reason of its own' },
    ]);
  });

  it('while nothing at all is accepted, no refusal is held against a row', async () => {
    const { pool, poisoned, failure, publish } = bridge;
    const ids = await addRows(pool, 3);
    ids.forEach((id) => poisoned.add(id));
    await expect(publish()).rejects.toBe(failure.error);
    const { rows } = await pool.query('select state, publish_failures from outbox.jobs group by 1, 2');
    expect(rows).toEqual([{ state: 'pending', publish_failures: 0 }]);
  });
});

// What Redis and its client alone say.
describe('on the redis backend', () => {
  beforeEach(async () => {
    bridge = await setup('redis');
  });

  it.each([
    [
      'a full Redis',
      Object.assign(new Error("OOM command not allowed when used memory > 'maxmemory'."), { name: 'ReplyError' }),
    ],
    ['a Redis that is away', new Error('Connection is closed.')],
    ['a Redis that hangs', new Error('Command timed out')],
  ])('%s is not held against the rows', async (_title, error) => {
    const { pool, poisoned, failure, publish } = bridge;
    const [id = ''] = await addRows(pool, 3);
    poisoned.add(id);
    failure.error = error;
    await expect(publish()).rejects.toBe(error);
    const { rows } = await pool.query('select distinct state, publish_failures from outbox.jobs');
    expect(rows).toEqual([{ state: 'pending', publish_failures: 0 }]);
  });
});

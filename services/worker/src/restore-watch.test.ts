import { connectQueueBackend, SECOND, type QueueBackend, type SharedSettings } from '@outbox/core';
import {
  captureLogs,
  createTestDatabase,
  createTestPrefix,
  startFaultProxy,
  waitFor,
  type TestDatabase,
  type TestPrefix,
} from '@outbox/testing';
import { createClaim } from './claim.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, readRow } from './worker.fixture.ts';

let database: TestDatabase;
let keys: TestPrefix;
let backend: QueueBackend;
beforeEach(async () => {
  database = await createTestDatabase();
  await addJobType(database.pool);
  keys = createTestPrefix();
  backend = await connectBackend('redis');
});
afterEach(async () => {
  await backend.close();
  await keys.removeKeys();
  await database.drop();
});

function connectBackend(kind: QueueBackend['kind'], redisUrl = keys.redisUrl): Promise<QueueBackend> {
  const settings: SharedSettings = {
    DATABASE_URL: database.url,
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: kind,
    REDIS_URL: redisUrl,
    QUEUE_PREFIX: keys.prefix,
    DATABASE_POOLED: false,
    LOG_LEVEL: 'error',
  };
  return connectQueueBackend(settings, () => undefined);
}

const count = (counter: number) => database.pool.query('update outbox.meta set restore_counter = $1', [counter]);

/** A worker that has not looked yet. */
function startFresh(asked: Pick<QueueBackend, 'readCounter'> = backend) {
  const { pool } = database;
  const { log, lines } = captureLogs();
  const restores = new RestoreWatch({ db: pool, backend: asked, log });
  const claim = createClaim({ pool, workerId: 'worker', leaseMs: 15 * SECOND, maxBatch: 10, restores });
  return { pool, restores, claim, sentences: () => lines.map(({ msg }) => msg) };
}

/** One that has seen the counter at 100. */
async function setup() {
  await count(100);
  const worker = startFresh();
  await worker.restores.look();
  return worker;
}

const STOPPED = 'database was restored to an older state, taking no jobs';
const GOES_ON = 'restored database was set right, taking jobs again';

test('a claim that meets an older database takes nothing, at once, and says so once', async () => {
  const { pool, claim, restores, sentences } = await setup();
  const ids = [await addRow(pool), await addRow(pool, { state: 'completed' })];
  await count(99);

  for (const id of [...ids, '987654321']) {
    expect(await claim({ id, generation: 1 })).toMatchObject({ kind: 'later', reason: 'restored' });
  }

  expect(await readRow(pool, ids[0] ?? '')).toMatchObject({ state: 'published', attempt: 0, run: null });
  expect(restores.restored).toBe(true);
  expect(sentences()).toEqual([STOPPED]);
});

test('work goes on when a person says so, not because the counter has grown past it', async () => {
  const { pool, claim, restores, sentences } = await setup();
  await count(99);
  await restores.look();
  expect(restores.restored).toBe(true);
  await count(150);
  await restores.look();
  expect(restores.restored).toBe(true);

  await pool.query('select outbox.resume_after_restore(counter => 120)');
  await restores.look();
  expect(restores.restored).toBe(false);
  expect(await claim({ id: await addRow(pool), generation: 1 })).toMatchObject({ kind: 'run' });
  expect(sentences()).toEqual([STOPPED, GOES_ON]);
});

test('a claim that comes first after all was set right takes nothing yet, and nothing stays stopped', async () => {
  const { pool, claim, restores } = await setup();
  await pool.query('update outbox.meta set restore_counter = 10');
  await pool.query('select outbox.resume_after_restore(counter => 20)');
  const id = await addRow(pool);
  expect(await claim({ id, generation: 1 })).toMatchObject({ kind: 'later', reason: 'restored' });
  await restores.look();
  expect(await claim({ id, generation: 1 })).toMatchObject({ kind: 'run' });
});

test('an answer that arrives late is no older database', async () => {
  const { restores } = await setup();
  const expected = restores.highest;
  expect(restores.found('102', expected)).toBe(true);
  expect(restores.found('101', expected)).toBe(true);
  expect(restores.restored).toBe(false);
  expect(restores.highest).toBe('102');
});

test('claims beside a counter that grows all the time raise no alarm', async () => {
  const { pool, claim, restores } = await setup();
  const grow = async () => {
    for (let counter = 101; counter < 300; counter += 1) await count(counter);
  };
  const claimAll = async () => {
    for (let at = 0; at < 100; at += 1) {
      expect(await claim({ id: await addRow(pool), generation: 1 })).toMatchObject({ kind: 'run' });
    }
  };
  await Promise.all([grow(), claimAll(), claimAll(), claimAll()]);
  expect(restores.restored).toBe(false);
});

test('an answer to a question from before all was set right stops nothing again', async () => {
  const { pool, restores } = await setup();
  const asked = restores.highest;
  await count(10);
  await pool.query('select outbox.resume_after_restore(counter => 20)');
  await restores.look();
  expect(restores.found('21', asked)).toBe(false);
  expect(restores.restored).toBe(false);
});

describe('a worker that has seen nothing itself, because it started after the restore', () => {
  test('takes nothing of a database that is behind the queue backend, from its start until it is set right', async () => {
    await backend.writeCounter('100');
    await count(99);
    const { pool, restores, claim, sentences } = startFresh();
    await restores.start();
    restores.stop();
    expect(restores.restored).toBe(true);
    const id = await addRow(pool);
    expect(await claim({ id, generation: 1 })).toMatchObject({ kind: 'later', reason: 'restored' });

    await pool.query('select outbox.resume_after_restore(counter => 100)');
    await restores.look();
    expect(restores.restored).toBe(false);
    expect(await claim({ id: await addRow(pool), generation: 1 })).toMatchObject({ kind: 'run' });
    expect(sentences()).toEqual([STOPPED, GOES_ON]);
  });

  test('is not calmed by work that was resumed after an earlier restore', async () => {
    await database.pool.query('select outbox.resume_after_restore(counter => 50)');
    await backend.writeCounter('100');
    const { restores } = startFresh();
    await restores.look();
    expect(restores.restored).toBe(true);
  });

  test('sees within two seconds that a bridge had counted further', async () => {
    await count(100);
    const { restores } = startFresh();
    await restores.start();
    await backend.writeCounter('101');
    await waitFor(() => expect(restores.restored).toBe(true), { timeoutMs: 2 * SECOND }).finally(() => restores.stop());
  });

  test('raises no alarm when the backend has lost the counter, and still compares with what it has seen', async () => {
    await backend.writeCounter('100');
    await count(99);
    await keys.removeKeys();
    await expectOnlyOwnComparison(startFresh());
  });

  test('raises no alarm when the backend is away, and still compares with what it has seen', async () => {
    await backend.writeCounter('100');
    await count(99);
    const proxy = await startFaultProxy(keys.redisUrl);
    const away = await connectBackend('redis', proxy.url);
    await proxy.cut();
    await expectOnlyOwnComparison(startFresh(away));
    await away.close();
    await proxy.close();
  });

  async function expectOnlyOwnComparison({ restores }: ReturnType<typeof startFresh>) {
    await restores.look();
    expect(restores.restored).toBe(false);
    await count(98);
    await restores.look();
    expect(restores.restored).toBe(true);
  }

  test('raises no alarm on the PostgreSQL queue backend, which went back together with the rows', async () => {
    const inPostgres = await connectBackend('postgres');
    await count(7);
    const { restores, sentences } = startFresh(inPostgres);
    await restores.look();
    await inPostgres.close();
    expect(restores.restored).toBe(false);
    expect(sentences()).toEqual([]);
  });
});

test('a bridge that counts all the time beside workers that look raises no alarm', async () => {
  const bridge = async () => {
    for (let counter = 1; counter < 300; counter += 1) {
      await count(counter);
      await backend.writeCounter(String(counter));
    }
  };
  const workers = [startFresh(), startFresh()];
  const look = async ({ restores }: (typeof workers)[number]) => {
    for (let at = 0; at < 150; at += 1) await restores.look();
  };
  await Promise.all([bridge(), ...workers.map(look)]);
  expect(workers.map(({ restores }) => restores.restored)).toEqual([false, false]);
});

import { SECOND } from '@outbox/core';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createClaim } from './claim.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, readRow } from './worker.fixture.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase();
  await addJobType(database.pool);
});
afterEach(() => database.drop());

async function setup() {
  const { pool } = database;
  const { log, lines } = captureLogs();
  const restores = new RestoreWatch(pool, log);
  const claim = createClaim({ pool, workerId: 'worker', leaseMs: 15 * SECOND, maxBatch: 10, restores });
  const count = (counter: number) => pool.query('update outbox.meta set restore_counter = $1', [counter]);
  await count(100);
  await restores.look();
  return { pool, restores, claim, count, sentences: () => lines.map(({ msg }) => msg) };
}

const STOPPED = 'database was restored to an older state, taking no jobs';
const GOES_ON = 'restored database was set right, taking jobs again';

test('a claim that meets an older database takes nothing, at once, and says so once', async () => {
  const { pool, claim, count, restores, sentences } = await setup();
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
  const { pool, claim, count, restores, sentences } = await setup();
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
  const { pool, claim, count, restores } = await setup();
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

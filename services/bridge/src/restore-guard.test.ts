import { captureLogs, createTestDatabase, createTestPrefix } from '@outbox/testing';
import { openQueues } from './bridge.fixture.ts';
import { RestoreGuard } from './restore-guard.ts';

async function setup() {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  const { backend, ...queues } = await openQueues(keys.redisUrl, keys.prefix);
  const { log, lines } = captureLogs();
  const { pool } = database;
  const newGuard = () => new RestoreGuard({ pool, backend, log });
  return {
    ...{ pool, backend, keys, lines, newGuard },
    /** What a restore of the database does to the counter. */
    goBackTo: (counter: number) => pool.query('update outbox.meta set restore_counter = $1', [counter]),
    close: async () => {
      await queues.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

let bridge: Awaited<ReturnType<typeof setup>>;
beforeEach(async () => {
  bridge = await setup();
});
afterEach(() => bridge.close());

const ALARM = expect.stringContaining('resume --after-restore') as string;

it('nothing may be done before the first comparison, everything after it', async () => {
  const guard = bridge.newGuard();
  expect(guard.problem).toBeDefined();
  await guard.look();
  expect(guard.problem).toBeUndefined();
  expect(await bridge.backend.readCounter()).toBe('1');
});

it('an older database stops everything, with one line in the log, until a person has set it right', async () => {
  const { pool, backend, lines, newGuard, goBackTo } = bridge;
  const guard = newGuard();
  for (let n = 1; n <= 5; n += 1) await guard.look();
  await goBackTo(3);
  for (let n = 1; n <= 4; n += 1) await guard.look();
  expect(guard.problem).toEqual(ALARM);
  const restarted = newGuard();
  await restarted.look();
  expect(restarted.problem).toEqual(ALARM);
  const { rows } = await pool.query('select restore_counter::int as counter from outbox.meta');
  expect(rows).toEqual([{ counter: 3 }]);
  expect(lines.filter(({ level }) => level === 'error')).toHaveLength(2); // one of each guard

  await pool.query('select outbox.resume_after_restore(counter => $1)', [await backend.readCounter()]);
  await guard.look();
  expect(guard.problem).toBeUndefined();
});

it('a Redis that has lost the counter is no alarm', async () => {
  const guard = bridge.newGuard();
  await guard.look();
  await bridge.keys.removeKeys();
  await guard.look();
  expect(guard.problem).toBeUndefined();
});

it('bridges that count side by side raise no alarm', async () => {
  const guards = Array.from({ length: 4 }, bridge.newGuard);
  const alarms: (string | undefined)[] = [];
  await Promise.all(
    guards.map(async (guard) => {
      for (let n = 1; n <= 50; n += 1) {
        await guard.look();
        alarms.push(guard.problem);
      }
    }),
  );
  expect(alarms.filter((alarm) => alarm !== undefined)).toEqual([]);
  expect(Number(await bridge.backend.readCounter())).toBe(200);
});

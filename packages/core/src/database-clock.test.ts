import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { DatabaseClock } from './database-clock.ts';
import { SECOND } from './durations.ts';

let database: TestDatabase;

beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

/** A measured clock on a machine whose time of day the test sets: milliseconds ahead of the database's. */
async function setup(aheadMs = 0) {
  const machine = { aheadMs };
  const clock = new DatabaseClock(
    database.pool,
    () => undefined,
    () => Date.now() + machine.aheadMs,
  );
  await clock.measure();
  return { clock, machine };
}

async function databaseNow(): Promise<number> {
  const { rows } = await database.pool.query<{ now: number }>(
    'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
  );
  return rows[0]?.now ?? NaN;
}

it.each([-600, 0, 600])(
  'says what time it is in the database on a machine that is %i s ahead',
  async (aheadSeconds) => {
    const { clock } = await setup(aheadSeconds * SECOND);
    const before = clock.now();
    const now = await databaseNow();
    expect(now).toBeGreaterThan(before - 50);
    expect(now).toBeLessThan(clock.now() + 50);
  },
);

it('says what this machine will show at an instant of the database', async () => {
  const { clock, machine } = await setup(600 * SECOND);
  const instant = clock.now() + 5 * SECOND;
  expect(clock.toLocal(instant)).toBeGreaterThan(Date.now() + machine.aheadMs + 5 * SECOND - 50);
  expect(clock.toLocal(instant)).toBeLessThan(Date.now() + machine.aheadMs + 5 * SECOND + 50);
});

it('is no good for judging what is due beyond a second, in both directions', async () => {
  expect((await setup(900)).clock.trustworthy).toBe(true);
  expect((await setup(1_200)).clock.trustworthy).toBe(false);
  expect((await setup(-1_200)).clock.trustworthy).toBe(false);
});

it('shows a step of the time of day at once, without being measured again', async () => {
  const { clock, machine } = await setup();
  expect(clock.trustworthy).toBe(true);
  machine.aheadMs = 600 * SECOND;
  expect(clock.trustworthy).toBe(false);
  expect(clock.offsetMs).toBeCloseTo(-600 * SECOND, -2);
  machine.aheadMs = 0;
  expect(clock.trustworthy).toBe(true);
});

import { createPool, type Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { Sweeper, sweepOnce } from './sweep.ts';

let database: TestDatabase;
/** What the bridge may do, and no more. */
let bridge: Pool;
beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_bridge', applicationName: 'sweep', max: 2 };
  bridge = createPool({ ...options, onError: () => undefined });
});
afterEach(async () => {
  await bridge.end();
  await database.drop();
});

/** Notes about so many captures that failed, of auto syncs that are gone since. */
async function setAside(count: number): Promise<void> {
  await database.pool.query(
    `insert into outbox.capture_errors (table_name, job_name, key, sqlstate, message)
     select 'public.auto_syncs', 'reminder_24h', gen_random_uuid(), '55P03', 'locked' from generate_series(1, $1::int)`,
    [count],
  );
}

async function round(): Promise<unknown[]> {
  const { log, lines } = captureLogs();
  await new Sweeper({ pool: bridge, families: ['reminders'], everyMs: 60_000, heldBy: () => undefined, log }).sweep();
  return lines;
}

it('heals batch after batch until nothing is left, and says what it healed', async () => {
  await setAside(450);
  const line = { level: 'warn', msg: 'missed rows healed', family: 'reminders', planned: 0, cancelled: 0, recorded: 0 };
  expect(await round()).toMatchObject([
    { ...line, recovered: 200 },
    { ...line, recovered: 200 },
    { ...line, recovered: 50 },
  ]);
  const left = await database.pool.query('select 1 from outbox.capture_errors where healed_at is null');
  expect(left.rows).toEqual([]);
});

it('says nothing when there is nothing to heal', async () => {
  expect(await round()).toEqual([]);
});

it('names what could not be healed', async () => {
  await setAside(1);
  await database.pool.query('alter table outbox.capture_errors add constraint fails check (healed_at is null)');
  expect(await round()).toMatchObject([
    {
      ...{ level: 'error', msg: 'missed rows not healed', family: 'reminders', failed: 1 },
      err: { message: expect.stringContaining('fails') as string },
    },
  ]);
});

it.each(['drop function reminders.sweep()', 'drop schema reminders cascade'])(
  'a family that is not installed here is skipped quietly: %s',
  async (sql) => {
    await database.pool.query(sql);
    expect(await sweepOnce(bridge, 'reminders.sweep')).toBeUndefined();
    expect(await round()).toEqual([]);
  },
);

it('an error is logged, and the next round goes on', async () => {
  await setAside(1);
  await database.pool.query('alter table outbox.capture_errors rename to hidden');
  expect(await round()).toMatchObject([{ level: 'warn', msg: 'sweep failed', family: 'reminders' }]);
  await database.pool.query('alter table outbox.hidden rename to capture_errors');
  expect(await round()).toMatchObject([{ msg: 'missed rows healed', recovered: 1 }]);
});

it('of two bridges one sweeps', async () => {
  const client = await bridge.connect();
  await client.query('begin');
  await client.query('select reminders.sweep()');
  expect(await sweepOnce(bridge, 'reminders.sweep')).toBeUndefined();
  await client.query('commit');
  client.release();
  expect(await sweepOnce(bridge, 'reminders.sweep')).toMatchObject({ failed: 0 });
});

import { createPool, type Pool } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createIntegration, insertSchedule, type Integration, type ScheduleWish } from './schedules.fixture.ts';

let database: TestDatabase;
/** What the bridge may do, and no more. */
let bridge: Pool;
let integration: Integration;

beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_bridge', applicationName: 'sweep', max: 2 };
  bridge = createPool({ ...options, onError: () => undefined });
  integration = await createIntegration(database.pool);
});
afterEach(async () => {
  await bridge.end();
  await database.drop();
});

async function sql(text: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(text, values)).rows;
}

const NOTHING = { recovered: 0, planned: 0, cancelled: 0, failed: 0, error: null, more: false };
/** And it is to be called again. */
const HEALED = { ...NOTHING, more: true };

async function sweep(): Promise<unknown> {
  const { rows } = await bridge.query<{ swept: unknown }>('select golioth.sweep() as swept');
  return rows[0]?.swept;
}

async function jobsOf(key: string): Promise<string[]> {
  const rows = await sql('select state from outbox.jobs where key = $1 order by id', [key]);
  return rows.map(({ state }) => String(state));
}

/** Work that the family's triggers do not see: a bulk load with triggers switched off. */
async function unseen(work: () => Promise<unknown>): Promise<void> {
  await sql('alter table public.auto_sync_schedules disable trigger user');
  await work();
  await sql('alter table public.auto_sync_schedules enable trigger user');
  await sql(`alter table public.auto_sync_schedules disable trigger set_next_run_at`);
}

async function missed(wish: ScheduleWish = {}): Promise<string> {
  let id = '';
  await unseen(async () => (id = await insertSchedule(database.pool, integration.id, wish)));
  return id;
}

test('where all is well it does nothing', async () => {
  await insertSchedule(database.pool, integration.id);
  await insertSchedule(database.pool, integration.id, { enabled: false });
  await sql('select golioth.run_now($1)', [integration.id]);
  expect(await sweep()).toEqual(NOTHING);
  expect(await jobsOf(integration.id)).toEqual(['pending']);
});

describe('an enabled schedule without an open job', () => {
  test('that its trigger missed gets one, for its next slot', async () => {
    const id = await missed({ everyMinutes: 10 });
    expect(await sweep()).toEqual({ ...HEALED, planned: 1 });
    expect(await sweep()).toEqual(NOTHING);
    const due = `
      select j.scheduled_at = golioth.next_slot(now(), s.created_at, 10) as "onSlot"
      from outbox.jobs j join public.auto_sync_schedules s on s.id::text = j.key where s.id = $1`;
    expect(await sql(due, [id])).toEqual([{ onSlot: true }]);
  });

  test.each(['failed', 'cancelled'])('whose run was %s before it had begun gets the next', async (state) => {
    const id = await insertSchedule(database.pool, integration.id);
    await sql(`update outbox.jobs set state = $2, holds_key = false, finished_at = now() where key = $1`, [id, state]);
    expect(await sweep()).toEqual({ ...HEALED, planned: 1 });
    expect(await jobsOf(id)).toEqual([state, 'pending']);
  });

  test('that is older than the capture is left to take_over', async () => {
    const id = await missed({ createdAt: '2026-01-01T00:00:00Z' });
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual([]);
  });

  test.each([
    ['dropped', 'drop trigger capture_golioth_schedules_insert on public.auto_sync_schedules'],
    ['disabled', 'alter table public.auto_sync_schedules disable trigger capture_golioth_schedules_insert'],
  ])('is left alone when a person has %s its trigger', async (_how, change) => {
    const id = await missed();
    await sql(change);
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual([]);
  });
});

describe('a job that waits in vain', () => {
  test.each([
    ['was disabled', 'update public.auto_sync_schedules set enabled = false'],
    ['is gone', 'delete from public.auto_sync_schedules'],
  ])('is cancelled when its schedule %s and the trigger missed it', async (_how, change) => {
    const id = await insertSchedule(database.pool, integration.id);
    await unseen(() => sql(change));
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
    expect(await jobsOf(id)).toEqual(['cancelled']);
  });

  test('is cancelled when it was for an integration alone, which is gone', async () => {
    await sql('select golioth.run_now($1)', [integration.id]);
    await sql('delete from public.integrations');
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
  });

  test('is left alone while it runs', async () => {
    const id = await insertSchedule(database.pool, integration.id);
    await sql(`update outbox.jobs set state = 'active', holds_key = false, locked_until = now() + interval '1 minute'`);
    await unseen(() => sql('delete from public.auto_sync_schedules'));
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual(['active']);
  });
});

test('what a capture set aside is done: the schedule is followed as it stands now', async () => {
  const id = await insertSchedule(database.pool, integration.id);
  const client = await database.pool.connect();
  await client.query('begin');
  await client.query('select from outbox.jobs for update');
  await sql('update public.auto_sync_schedules set frequency_minutes = 7 where id = $1', [id]);
  await client.query('rollback');
  client.release();
  const onTime = `
    select j.scheduled_at = s.next_run_at as "onTime"
    from outbox.jobs j join public.auto_sync_schedules s on s.id::text = j.key where s.id = $1`;
  expect(await sql(onTime, [id])).toEqual([{ onTime: false }]);
  expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
  expect(await sql(onTime, [id])).toEqual([{ onTime: true }]);
  expect(await sweep()).toEqual(NOTHING);
});

test('a lock that another transaction holds is skipped, and the job is healed the next time', async () => {
  const id = await insertSchedule(database.pool, integration.id);
  await unseen(() => sql('update public.auto_sync_schedules set enabled = false'));
  const client = await database.pool.connect();
  await client.query('begin');
  await client.query('select from outbox.jobs for update');
  expect(await sweep()).toEqual(NOTHING);
  await client.query('rollback');
  client.release();
  expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
  expect(await jobsOf(id)).toEqual(['cancelled']);
});

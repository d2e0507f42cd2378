import { randomUUID } from 'node:crypto';
import type { PoolClient, Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { syncDevices } from './job.ts';
import { createIntegration, insertSchedule, insertSchedules, type ScheduleWish } from './schedules.fixture.ts';

let database: TestDatabase;
const clients: PoolClient[] = [];

beforeAll(async () => void (database = await createTestDatabase()));
afterEach(async () => {
  for (const client of clients.splice(0)) {
    await client.query('rollback');
    client.release();
  }
});
afterAll(() => database.drop());

async function rowsOf(sql: string, values: unknown[] = [], db: Queryable = database.pool) {
  return (await db.query<Record<string, unknown>>(sql, values)).rows;
}

/** A connection of its own with a transaction open; what the test leaves open is rolled back. */
async function begin(): Promise<PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  await client.query('begin');
  return client;
}

/** The jobs of a schedule, in the order they were made. */
function jobsOf(scheduleId: string, db: Queryable = database.pool) {
  const sql = `
    select j.id, j.state, j.reason, j.generation, j.payload, j.owner_id, j.serial_key, j.scheduled_at = s.next_run_at as on_time
    from outbox.jobs j left join public.auto_sync_schedules s on s.id::text = j.key
    where j.key = $1 order by j.id`;
  return rowsOf(sql, [scheduleId], db);
}

async function setup(wish: ScheduleWish = {}) {
  const integration = await createIntegration(database.pool);
  const scheduleId = await insertSchedule(database.pool, integration.id, wish);
  const change = (set: string) => rowsOf(`update public.auto_sync_schedules set ${set} where id = $1`, [scheduleId]);
  return { integration, scheduleId, change };
}

const captureErrors = (scheduleId: string) =>
  rowsOf('select job_name, sqlstate from outbox.capture_errors where key = $1', [scheduleId]);

describe('an insert of a schedule', () => {
  test('leaves exactly one job, which syncDevices can read, due at next_run_at, and which belongs to the user', async () => {
    const { integration, scheduleId } = await setup({ everyMinutes: 15, window: ['09:00', '17:00'] });
    const jobs = await jobsOf(scheduleId);
    const payload = syncDevices.payload.parse(jobs[0]?.payload);
    expect(payload).toEqual({ scheduleId, integrationId: integration.id });
    expect(syncDevices.key(payload)).toBe(scheduleId);
    expect(jobs).toMatchObject([
      {
        ...{ state: 'pending', on_time: true, owner_id: integration.userId },
        serial_key: syncDevices.serialKey?.(payload),
      },
    ]);
  });

  test('that is rolled back leaves none', async () => {
    const { id } = await createIntegration(database.pool);
    const client = await begin();
    const scheduleId = await insertSchedule(client, id);
    expect(await jobsOf(scheduleId, client)).toHaveLength(1);
    await client.query('rollback');
    expect(await jobsOf(scheduleId)).toEqual([]);
  });

  test('that is not enabled leaves none, and no next_run_at', async () => {
    const { scheduleId } = await setup({ enabled: false });
    expect(await jobsOf(scheduleId)).toEqual([]);
    expect(await rowsOf('select next_run_at from public.auto_sync_schedules where id = $1', [scheduleId])).toEqual([
      { next_run_at: null },
    ]);
  });

  test('of several rows leaves one each for those that are enabled', async () => {
    const { id } = await createIntegration(database.pool);
    const wishes = Array.from({ length: 20 }, (_, n) => ({ id: randomUUID(), enabled: n % 2 === 0 }));
    await insertSchedules(database.pool, id, wishes);
    const keys = await rowsOf(`select key from outbox.jobs where payload ->> 'integrationId' = $1 order by key`, [id]);
    const enabled = wishes.filter(({ enabled }) => enabled).map((wish) => ({ key: wish.id }));
    expect(keys).toEqual(enabled.sort((a, b) => a.key.localeCompare(b.key)));
  });
});

describe('what cannot be meant is refused where it enters, by the name of its field', () => {
  const wrong: [string, string, ScheduleWish][] = [
    ['frequency_minutes', 'a frequency of nothing', { everyMinutes: 0 }],
    ['frequency_minutes', 'a frequency back in time', { everyMinutes: -5 }],
    ['time_window_start', 'a window without a start', { window: [null, '17:00'] }],
    ['time_window_end', 'a window without an end', { window: ['09:00', null] }],
    ['timezone', 'a zone that does not exist', { timezone: 'Mars/Base' }],
    ['timezone', 'an abbreviation, which knows no daylight saving', { timezone: 'CET' }],
    ['timezone', 'no zone', { timezone: '' }],
  ];

  test.each(wrong)('%s: %s', async (column, _what, wish) => {
    const { id } = await createIntegration(database.pool);
    const refused = { code: '23514', column, message: expect.stringContaining(column) as string };
    await expect(insertSchedule(database.pool, id, wish)).rejects.toMatchObject(refused);
  });

  test('the same when it is changed later', async () => {
    const { change } = await setup();
    await expect(change('frequency_minutes = 0')).rejects.toMatchObject({ column: 'frequency_minutes' });
    await expect(change(`time_window_start = '09:00'`)).rejects.toMatchObject({ column: 'time_window_end' });
    await expect(change(`timezone = 'Europe'`)).rejects.toMatchObject({ column: 'timezone' });
  });

  test('a window that is no time of day is refused by its type', async () => {
    const { change } = await setup();
    await expect(change(`time_window_start = '25:00'`)).rejects.toMatchObject({ code: '22008' });
  });
});

describe('a change of a schedule comes into effect at once', () => {
  test.each([
    ['frequency', {}, 'frequency_minutes = 7'],
    ['window', { window: ['09:00', '17:00'] } as const, `time_window_start = '09:00:30'`],
    ['zone, half an hour from the first', { window: ['09:00', '17:00'] } as const, `timezone = 'Asia/Kolkata'`],
  ])('another %s moves the job that waits', async (_what, wish, set) => {
    const { scheduleId, change } = await setup(wish);
    const nextRun = 'select next_run_at from public.auto_sync_schedules where id = $1';
    const before = await rowsOf(nextRun, [scheduleId]);
    await change(set);
    expect(await rowsOf(nextRun, [scheduleId])).not.toEqual(before);
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'pending', generation: 2, on_time: true }]);
  });

  test('one that changes no slot leaves the job alone', async () => {
    const { scheduleId, change } = await setup();
    await change('updated_at = now(), frequency_minutes = frequency_minutes');
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'pending', generation: 1, on_time: true }]);
  });

  test('next_run_at by hand moves that one run', async () => {
    const { scheduleId, change } = await setup();
    await change(`next_run_at = date_trunc('second', now()) + interval '90 seconds'`);
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'pending', generation: 2, on_time: true }]);
  });

  test('disabled: nothing waits, and no run is promised; enabled again: the next slot', async () => {
    const { scheduleId, change } = await setup();
    await change('enabled = false');
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'cancelled', reason: 'schedule_not_enabled' }]);
    expect(await rowsOf('select next_run_at from public.auto_sync_schedules where id = $1', [scheduleId])).toEqual([
      { next_run_at: null },
    ]);
    await change('enabled = true');
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'cancelled' }, { state: 'pending', on_time: true }]);
  });

  test('disabled: an attempt that would follow a failed one ends too, and a run that is under way is asked to', async () => {
    const { scheduleId, change } = await setup();
    await rowsOf('update outbox.jobs set holds_key = false, attempt = 1 where key = $1', [scheduleId]);
    await rowsOf(
      `insert into outbox.jobs (name, queue, key, payload, state, locked_until, scheduled_at, due_at, max_attempts)
       select name, queue, key, payload, 'active', now() + interval '1 minute', now(), now(), 3
       from outbox.jobs where key = $1`,
      [scheduleId],
    );
    await change('enabled = false');
    expect(await jobsOf(scheduleId)).toMatchObject([
      { state: 'cancelled' },
      { state: 'active', reason: 'schedule_not_enabled' },
    ]);
  });

  test('deleted: its jobs end', async () => {
    const { scheduleId } = await setup();
    await rowsOf('delete from public.auto_sync_schedules where id = $1', [scheduleId]);
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'cancelled' }]);
  });

  test('so it is when its integration is deleted', async () => {
    const { scheduleId, integration } = await setup();
    await rowsOf('delete from public.integrations where id = $1', [integration.id]);
    expect(await jobsOf(scheduleId)).toMatchObject([{ state: 'cancelled' }]);
  });

  test('another integration: its job, and none of the old one', async () => {
    const { scheduleId } = await setup();
    const other = await createIntegration(database.pool);
    await rowsOf('update public.auto_sync_schedules set integration_id = $2 where id = $1', [scheduleId, other.id]);
    expect(await jobsOf(scheduleId)).toMatchObject([
      { state: 'cancelled', reason: 'integration_changed' },
      { state: 'pending', payload: { integrationId: other.id }, owner_id: other.userId },
    ]);
  });
});

test('a capture that fails never fails the business write, and is set aside', async () => {
  const { scheduleId, change } = await setup();
  const other = await begin();
  await other.query('select from outbox.jobs where key = $1 for update', [scheduleId]);
  await change('enabled = false');
  expect(await captureErrors(scheduleId)).toEqual([{ job_name: 'golioth_device_sync', sqlstate: '55P03' }]);
});

test('the trigger by which the host computed next_run_at is disabled by name, and comes back when the family leaves', async () => {
  const state = () => rowsOf(`select tgenabled from pg_trigger where tgname = 'set_next_run_at'`);
  expect(await rowsOf('select name, was_enabled from golioth.host_triggers')).toEqual([
    { name: 'set_next_run_at', was_enabled: 'O' },
  ]);
  expect(await state()).toEqual([{ tgenabled: 'D' }]);
  const client = await begin();
  await client.query('select golioth.restore_host_triggers()');
  expect(await rowsOf(`select tgenabled from pg_trigger where tgname = 'set_next_run_at'`, [], client)).toEqual([
    { tgenabled: 'O' },
  ]);
});

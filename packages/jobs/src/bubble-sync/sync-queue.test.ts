import { randomUUID } from 'node:crypto';
import { withTransaction, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { leaveJob, signUp } from './user.fixture.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

type Row = Record<string, unknown>;

async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Row[]> {
  return (await db.query<Row>(sql, values)).rows;
}

const query = (sql: string, values?: unknown[]) => rowsOf(database.pool, sql, values);

/** Runs `work` as the application's database role does, its search_path set as the old queries need it. */
function as<T>(role: string, work: (db: PoolClient) => Promise<T>, user?: string): Promise<T> {
  return withTransaction(database.pool, async (client) => {
    await client.query(`select set_config('request.jwt.claims', $1, true)`, [JSON.stringify({ sub: user ?? null })]);
    await client.query(`set local role ${role}`);
    await client.query('set local search_path = bubble, public');
    return work(client);
  });
}

const asService = (sql: string, values?: unknown[]) => as('service_role', (db) => rowsOf(db, sql, values));

/** A user whose one sync stands so. */
async function userWith(state?: Parameters<typeof leaveJob>[2]): Promise<string> {
  const userId = await signUp(database.pool);
  await asService('insert into sync_queue (user_id) values ($1)', [userId]);
  if (state !== undefined) await leaveJob(database.pool, userId, state);
  return userId;
}

/** What the row of a user says; undefined when there is none. */
async function queueRow(userId: string): Promise<Row | undefined> {
  const rows = await asService('select * from sync_queue where user_id = $1', [userId]);
  return rows[0];
}

const jobOf = async (userId: string) =>
  (
    await query(
      `select state, attempt, priority, max_attempts, serial_key, owner_id, payload, scheduled_at, reason,
         cancel_requested_at is not null as cancelling
       from outbox.jobs where key = $1 order by id desc limit 1`,
      [userId],
    )
  )[0];

describe('a row of sync_queue says how the sync stands', () => {
  test('that nobody has begun: pending', async () => {
    expect(await queueRow(await userWith())).toMatchObject({
      ...{ status: 'pending', retry_count: 0, max_retries: 3, next_retry_at: null, error_message: null, metadata: {} },
      ...{ started_at: null, completed_at: null, processed_at: null, created_at: expect.any(Date) as Date },
    });
  });

  test('that runs: processing', async () => {
    expect(await queueRow(await userWith('active'))).toMatchObject({ status: 'processing', retry_count: 0 });
  });

  test('that failed and is tried again: failed, with the instant of the next attempt', async () => {
    const row = await queueRow(await userWith('waiting for a retry'));
    expect(row).toMatchObject({ status: 'failed', retry_count: 1, error_message: 'Bubble answered 503' });
    expect(row?.next_retry_at).toEqual(row?.scheduled_at);
  });

  test('that nobody retries any more: failed, with more retries than there may be', async () => {
    const row = await queueRow(await userWith('failed'));
    expect(row).toMatchObject({ status: 'failed', retry_count: 4, max_retries: 3, next_retry_at: null });
    expect(row).toMatchObject({ last_error: 'Bubble refused the user (400)', completed_at: expect.any(Date) as Date });
  });

  test('that is done: completed', async () => {
    expect(await queueRow(await userWith('completed'))).toMatchObject({
      ...{ status: 'completed', retry_count: 0, error_message: null, metadata: {} },
      completed_at: expect.any(Date) as Date,
    });
  });

  test('that had nothing to do: completed, and why', async () => {
    const expected = { status: 'completed', error_message: 'user_deleted', metadata: { reason: 'user_deleted' } };
    expect(await queueRow(await userWith('skipped'))).toMatchObject(expected);
  });

  test('that was cancelled: not at all', async () => {
    expect(await queueRow(await userWith('cancelled'))).toBeUndefined();
  });
});

describe('an insert into sync_queue enqueues', () => {
  test('with the wishes of the row, and gives the row back', async () => {
    const userId = await signUp(database.pool);
    await query(`update outbox.jobs set state = 'cancelled', holds_key = false, finished_at = now() where key = $1`, [
      userId,
    ]);
    const [row] = await asService(
      `insert into sync_queue (user_id, status, priority, max_retries, metadata, scheduled_at)
       values ($1, 'pending', 7, 1, '{"source": "import"}', '2030-01-01') returning *`,
      [userId],
    );
    expect(row).toMatchObject({
      ...{ user_id: userId, status: 'pending', priority: 7, max_retries: 1, metadata: { source: 'import' } },
      scheduled_at: new Date('2030-01-01'),
      id: expect.stringMatching(/^6f757462-/) as string,
    });
    expect(await jobOf(userId)).toMatchObject({
      ...{ state: 'pending', priority: 7, max_attempts: 2, serial_key: `bubble_user:${userId}`, owner_id: userId },
      payload: { userId, metadata: { source: 'import' } },
    });
  });

  test('nothing while the user waits already: its row is the answer', async () => {
    const userId = await userWith();
    const first = await queueRow(userId);
    expect(await asService('insert into sync_queue (user_id) values ($1) returning id', [userId])).toEqual([
      { id: first?.id },
    ]);
  });

  test.each<[string, string, string, string]>([
    ['user_id', `(user_id) values (null)`, 'is missing', '23502'],
    ['user_id', `(user_id) values ('00000000-0000-4000-8000-00000000dead')`, 'there is no user', '23503'],
    ['status', `(user_id, status) values ($1, 'completed')`, 'a new row is pending', '22023'],
    ['max_retries', `(user_id, max_retries) values ($1, -1)`, 'must be from 0 to 899', '22023'],
    ['max_retries', `(user_id, max_retries) values ($1, 900)`, 'must be from 0 to 899', '22023'],
    ['metadata', `(user_id, metadata) values ($1, '[1]')`, 'must be a JSON object', '22023'],
    ['retry_count', `(user_id, retry_count) values ($1, 1)`, 'a new row has none', '22023'],
    ['id', `(user_id, id) values ($1, gen_random_uuid())`, 'cannot be chosen', '22023'],
    ['completed_at', `(user_id, completed_at) values ($1, now())`, 'cannot be chosen', '22023'],
  ])('and refuses a bad %s: %s', async (column, row, problem, code) => {
    const userId = await signUp(database.pool);
    const values = row.includes('$1') ? [userId] : [];
    const refused = asService(`insert into sync_queue ${row}`, values);
    await expect(refused).rejects.toMatchObject({
      ...{ code, column, hint: expect.any(String) as string },
      message: expect.stringContaining(`sync_queue.${column}: ${problem}`) as string,
    });
  });
});

describe('an update of sync_queue to pending runs the row again', () => {
  const RECOVER = `update sync_queue set status = 'pending', retry_count = 0, next_retry_at = null, error_message = null
    where status = 'failed' and user_id = $1 returning status, retry_count`;

  test('that nobody retries any more, as if it had never failed', async () => {
    const userId = await userWith('failed');
    expect(await asService(RECOVER, [userId])).toEqual([{ status: 'pending', retry_count: 0 }]);
    expect(await jobOf(userId)).toMatchObject({ state: 'pending', attempt: 0 });
  });

  test('that waits for its next attempt, as if it had never failed', async () => {
    const userId = await userWith('waiting for a retry');
    expect(await asService(RECOVER, [userId])).toEqual([{ status: 'pending', retry_count: 0 }]);
    const [due] = await query('select scheduled_at <= now() as now from outbox.jobs where key = $1', [userId]);
    expect(due).toEqual({ now: true });
  });

  test('that waits for its next attempt, at once, and still counts its failures when they are not taken back', async () => {
    const userId = await userWith('waiting for a retry');
    await asService(`update sync_queue set status = 'pending' where user_id = $1`, [userId]);
    expect(await jobOf(userId)).toMatchObject({ state: 'pending', attempt: 1 });
    const [due] = await query('select scheduled_at <= now() as now from outbox.jobs where key = $1', [userId]);
    expect(due).toEqual({ now: true });
  });

  test('that a dead worker left behind, and not one that runs', async () => {
    const userId = await userWith('active');
    const handBack = `update sync_queue set status = 'pending' where status = 'processing' and user_id = $1`;
    await expect(asService(handBack, [userId])).rejects.toMatchObject({ code: 'OB003', column: 'status' });
    await query(`update outbox.jobs set locked_until = now() - interval '1 s' where key = $1`, [userId]);
    await asService(handBack, [userId]);
    expect(await jobOf(userId)).toMatchObject({ state: 'pending', attempt: 0 });
  });

  test.each(['failed', 'active'] as const)('at another time when that is asked for: one that was %s', async (state) => {
    const userId = await userWith(state);
    await query(`update outbox.jobs set locked_until = now() - interval '1 s' where state = 'active'`);
    await asService(`update sync_queue set status = 'pending', next_retry_at = '2030-01-01' where user_id = $1`, [
      userId,
    ]);
    expect(await jobOf(userId)).toMatchObject({ state: 'pending', scheduled_at: new Date('2030-01-01') });
  });

  test('but for one whose user waits in a newer row: that does the same', async () => {
    const userId = await userWith('failed');
    await asService('insert into sync_queue (user_id) values ($1)', [userId]);
    expect(await asService(RECOVER, [userId])).toEqual([]);
    expect(await asService('select status from sync_queue where user_id = $1 order by created_at', [userId])).toEqual([
      { status: 'failed' },
      { status: 'pending' },
    ]);
  });

  test('but for one that is done', async () => {
    const update = asService(`update sync_queue set status = 'pending' where user_id = $1`, [
      await userWith('completed'),
    ]);
    await expect(update).rejects.toMatchObject({ code: 'OB004', message: 'sync_queue.status: the row has ended' });
  });
});

test('another next_retry_at is another instant of the next attempt', async () => {
  const userId = await userWith('waiting for a retry');
  await asService(`update sync_queue set next_retry_at = '2030-01-01' where user_id = $1`, [userId]);
  expect(await queueRow(userId)).toMatchObject({
    ...{ status: 'failed', retry_count: 1, next_retry_at: new Date('2030-01-01') },
  });
});

test.each([
  ['status', `status = 'completed'`],
  ['status', 'status = null'],
  ['user_id', 'user_id = gen_random_uuid()'],
  ['retry_count', 'retry_count = 2'],
  ['max_retries', 'max_retries = 9'],
  ['error_message', `status = 'pending', error_message = 'other'`],
])('an update of %s that would not be true is refused: %s', async (column, change) => {
  const userId = await userWith('waiting for a retry');
  const before = await jobOf(userId);
  const update = asService(`update sync_queue set ${change} where user_id = $1`, [userId]);
  await expect(update).rejects.toMatchObject({ code: '22023', column, hint: expect.any(String) as string });
  expect(await jobOf(userId)).toEqual(before);
});

describe('a delete from sync_queue', () => {
  const DELETE = 'delete from sync_queue where user_id = $1';

  test.each(['waiting', 'active'] as const)('cancels a row that is open: %s', async (state) => {
    const userId = await userWith(state === 'active' ? state : undefined);
    await asService(DELETE, [userId]);
    const expected = state === 'active' ? { state: 'active', cancelling: true } : { state: 'cancelled' };
    expect(await jobOf(userId)).toMatchObject({ ...expected, reason: 'deleted_from_sync_queue' });
  });

  test.each(['completed', 'failed'] as const)('removes one that has ended, and asks BullMQ to: %s', async (state) => {
    const userId = await userWith(state);
    const [job] = await query('select id from outbox.jobs where key = $1', [userId]);
    await asService(DELETE, [userId]);
    expect(await jobOf(userId)).toBeUndefined();
    expect(await query('select queue from outbox.removals where job_id = $1', [job?.id])).toEqual([
      { queue: 'bubble-sync' },
    ]);
  });
});

describe('access', () => {
  test.each([
    ['anon', 'select * from bubble.sync_queue'],
    ['anon', 'select * from bubble.user_source'],
    ['anon', 'select bubble.invoke_bubble_sync_processor()'],
    ['anon', 'select * from bubble.health_check()'],
    ['anon', 'select bubble.sweep()'],
    ['authenticated', `insert into bubble.sync_queue (user_id) values (gen_random_uuid())`],
    ['authenticated', `update bubble.sync_queue set status = 'pending'`],
    ['authenticated', 'delete from bubble.sync_queue'],
    ['authenticated', 'select * from bubble.user_source'],
    ['authenticated', 'select bubble.invoke_bubble_sync_processor()'],
    ['authenticated', 'select bubble.invoke_bubble_sync_retry()'],
    ['authenticated', 'select * from bubble.health_check()'],
    ['authenticated', `select bubble.record_sync(gen_random_uuid(), '1x1')`],
    ['authenticated', 'select bubble.sync_queue_row(1)'],
    ['service_role', `select bubble.record_sync(gen_random_uuid(), '1x1')`],
    ['service_role', 'select bubble.sweep()'],
    ['outbox_bridge', `select bubble.record_sync(gen_random_uuid(), '1x1')`],
    ['outbox_worker', `update public.users set email = 'x'`],
  ])('%s is refused: %s', async (role, sql) => {
    await expect(as(role, (db) => db.query(sql))).rejects.toMatchObject({ code: '42501' });
  });

  test('people read their own syncs and nobody else’s', async () => {
    const [mine] = [await userWith(), await userWith()];
    const read = (user?: string) => as('authenticated', (db) => rowsOf(db, 'select user_id from sync_queue'), user);
    expect(await read(mine)).toEqual([{ user_id: mine }]);
    expect(await read(randomUUID())).toEqual([]);
    expect(await read()).toEqual([]);
  });

  test('no function of the family may be executed by everybody, anon or authenticated', async () => {
    const open = `
      select p.oid::regprocedure::text as name
      from pg_proc p
      cross join unnest(array['anon', 'authenticated']) as r (role)
      where p.pronamespace = 'bubble'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')`;
    expect(await query(open)).toEqual([]);
  });
});

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createPool, withTransaction, type Pool } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { bubbleUserSync } from './job.ts';
import { findUser, recordSync } from './store.ts';
import { leaveJob, rename, signUp } from './user.fixture.ts';

let database: TestDatabase;
let worker: Pool;
beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_worker', applicationName: 'user source', max: 2 };
  worker = createPool({ ...options, onError: () => undefined });
});
afterEach(async () => {
  await worker.end();
  await database.drop();
});

async function jobsOf(userId: string): Promise<Record<string, unknown>[]> {
  const { rows } = await database.pool.query<Record<string, unknown>>(
    'select * from outbox.jobs where key = $1 order by id',
    [userId],
  );
  return rows;
}

describe('the capture', () => {
  test('writes what the job and its handler read, for a sign-up', async () => {
    const userId = await signUp(database.pool);
    const [row] = await jobsOf(userId);
    const payload = bubbleUserSync.payload.parse(row?.payload);
    expect(payload).toEqual({ userId });
    expect(row).toMatchObject({
      ...{ name: bubbleUserSync.name, queue: bubbleUserSync.queue, key: bubbleUserSync.key(payload), state: 'pending' },
      ...{ serial_key: bubbleUserSync.serialKey?.(payload), owner_id: userId, max_attempts: bubbleUserSync.attempts },
    });
    expect(row?.scheduled_at).toEqual(row?.created_at);
  });

  test('writes nothing of a sign-up that is rolled back', async () => {
    const client = await database.pool.connect();
    await client.query('begin');
    const userId = await signUp(client);
    await client.query('rollback');
    client.release();
    expect(await jobsOf(userId)).toEqual([]);
  });

  test('adds no second job for changes made before the first has begun', async () => {
    const userId = await signUp(database.pool);
    for (const name of ['Grace', 'Joan', 'Mary']) await rename(database.pool, userId, name);
    expect(await jobsOf(userId)).toHaveLength(1);
  });

  test('adds one for a change made while a copy runs', async () => {
    const userId = await signUp(database.pool);
    await leaveJob(database.pool, userId, 'active');
    await rename(database.pool, userId, 'Grace');
    expect(await jobsOf(userId)).toMatchObject([{ state: 'active' }, { state: 'pending' }]);
  });

  test.each([
    ['a column that is not copied', `update public.users set bubble_id = '1x1'`],
    ['the same values', 'update public.users set first_name = first_name, email = email'],
  ])('adds none for %s', async (_what, sql) => {
    const userId = await signUp(database.pool);
    await leaveJob(database.pool, userId, 'completed');
    await database.pool.query(sql);
    expect(await jobsOf(userId)).toHaveLength(1);
  });

  test.each(['email', 'first_name', 'last_name', 'phone'])('adds one for another %s', async (column) => {
    const userId = await signUp(database.pool);
    await leaveJob(database.pool, userId, 'completed');
    await database.pool.query(`update public.users set ${column} = 'other'`);
    expect(await jobsOf(userId)).toHaveLength(2);
  });

  test('of a deleted user cancels what is open', async () => {
    const userId = await signUp(database.pool);
    await database.pool.query('delete from public.users');
    expect(await jobsOf(userId)).toMatchObject([{ state: 'cancelled', reason: 'user_deleted' }]);
  });

  test('does not answer what the sync itself writes back', async () => {
    const userId = await signUp(database.pool);
    const [row] = await jobsOf(userId);
    await leaveJob(database.pool, userId, 'active');
    await withTransaction(worker, async (client) => {
      await client.query(`select set_config('outbox.current_job', $1, true)`, [row?.id]);
      expect(await recordSync(client, userId, '1x1')).toBe(true);
    });
    expect(await jobsOf(userId)).toHaveLength(1);
    expect(await findUser(worker, userId)).toMatchObject({ bubbleId: '1x1' });
  });
});

test('a sync recorded twice says the same; one of a user that is gone says so', async () => {
  const userId = await signUp(database.pool);
  expect(await recordSync(worker, userId, '1x1')).toBe(true);
  expect(await recordSync(worker, userId, '1x1')).toBe(true);
  await database.pool.query('delete from public.users');
  expect(await recordSync(worker, userId, '1x1')).toBe(false);
});

describe('adapted to auth.users', () => {
  /** As a new database of such a host gets it: the file in place of user-source.sql. */
  beforeEach(async () => {
    const { pool } = database;
    await pool.query(`select outbox.drop_capture('bubble.users')`);
    await pool.query('drop view bubble.user_source cascade');
    const adapted = join(import.meta.dirname, 'user-source.auth-users.sql');
    for (const file of [adapted, join(import.meta.dirname, 'access.sql')]) {
      await withTransaction(pool, async (client) => client.query(await readFile(file, 'utf8')));
    }
  });

  test('a sign-up and a change of its name are captured, read and recorded', async () => {
    const { pool } = database;
    const { rows } = await pool.query<{ id: string }>(
      `insert into auth.users (email, raw_user_meta_data) values ('ada@example.com', '{"first_name": "Ada"}') returning id`,
    );
    const userId = rows[0]?.id ?? '';
    expect(await jobsOf(userId)).toMatchObject([{ state: 'pending', payload: { userId } }]);
    await leaveJob(pool, userId, 'completed');
    expect(await findUser(worker, userId)).toMatchObject({
      ...{ email: 'ada@example.com', bubbleId: null, fields: { first_name: 'Ada' } },
    });
    expect(await recordSync(worker, userId, '1x1')).toBe(true);
    expect(await recordSync(worker, userId, '2x2')).toBe(true);
    expect(await findUser(worker, userId)).toMatchObject({ bubbleId: '2x2' });
    expect(await jobsOf(userId)).toHaveLength(1);

    await pool.query(`update auth.users set raw_user_meta_data = '{"first_name": "Augusta"}'`);
    expect(await jobsOf(userId)).toHaveLength(2);
    await pool.query('delete from auth.users');
    expect(await recordSync(worker, userId, '1x1')).toBe(false);
  });

  test('what the sweep does is the same', async () => {
    const { pool } = database;
    await withTransaction(pool, async (client) => {
      await client.query('set local session_replication_role = replica');
      await client.query(`insert into auth.users (email) values ('ada@example.com')`);
    });
    const { rows } = await pool.query('select bubble.sweep() as answer');
    expect(rows).toMatchObject([{ answer: { planned: 1, failed: 0 } }]);
  });
});

import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import type { Pool, PoolClient } from '@outbox/core';
import { leaveJob, signUp } from './user.fixture.ts';

/** Pending, processing, two that failed (one for good), two completed (one of them long ago), and one cancelled. */
const STATES = [undefined, 'active', 'waiting for a retry', 'failed', 'completed', 'skipped', 'cancelled'] as const;

let database: TestDatabase;
let client: PoolClient;
const notices: string[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  for (const state of STATES) {
    const userId = await signUp(database.pool);
    await database.pool.query('insert into bubble.sync_queue (user_id) values ($1)', [userId]);
    if (state !== undefined) await leaveJob(database.pool, userId, state);
    if (state === 'skipped') await age(database.pool, userId);
  }
  client = await database.pool.connect();
  client.on('notice', ({ message }) => notices.push(message ?? ''));
  await client.query('set role service_role');
  await client.query('set search_path = bubble, public');
});
afterAll(async () => {
  client.release(true);
  await database.drop();
});

async function age(pool: Pool, userId: string): Promise<void> {
  await pool.query(`update outbox.jobs set created_at = now() - interval '25 hours' where key = $1`, [userId]);
}

async function ask(sql: string): Promise<Record<string, unknown>[]> {
  notices.length = 0;
  return (await client.query<Record<string, unknown>>(sql)).rows;
}

describe('the old monitoring and verification queries, unchanged', () => {
  test('Check sync_queue status', async () => {
    const rows = await ask('SELECT status, COUNT(*) FROM sync_queue GROUP BY status;');
    expect(Object.fromEntries(rows.map(({ status, count }) => [status, count]))).toEqual({
      ...{ pending: '1', processing: '1', failed: '2', completed: '2' },
    });
  });

  test('Check functions exist', async () => {
    const rows = await ask(
      `SELECT proname FROM pg_proc
       WHERE proname IN ('invoke_bubble_sync_processor', 'invoke_bubble_sync_retry');`,
    );
    expect(rows.map(({ proname }) => proname).sort()).toEqual([
      'invoke_bubble_sync_processor',
      'invoke_bubble_sync_retry',
    ]);
  });

  test('Check if sync_queue has pending items', async () => {
    expect(await ask(`SELECT COUNT(*) FROM sync_queue WHERE status = 'pending';`)).toEqual([{ count: '1' }]);
  });

  test('Manually test', async () => {
    expect(await ask('SELECT invoke_bubble_sync_processor();')).toEqual([{ invoke_bubble_sync_processor: '1' }]);
    expect(notices).toEqual(['Found 1 pending items']);
  });

  test('Daily Health Check, without the part that asked pg_cron', async () => {
    const rows = await ask(
      `SELECT
        (SELECT COUNT(*) FROM sync_queue WHERE status = 'pending') as pending_items,
        (SELECT COUNT(*) FROM sync_queue WHERE status = 'failed') as failed_items,
        (SELECT COUNT(*) FROM sync_queue WHERE status = 'completed' AND created_at >= NOW() - INTERVAL '24 hours') as completed_today;`,
    );
    expect(rows).toEqual([{ pending_items: '1', failed_items: '2', completed_today: '1' }]);
  });

  test('Retry Logic: what is eligible for a retry, and what is not any more', async () => {
    const rows = await ask(
      `SELECT retry_count < max_retries AS retried, next_retry_at > NOW() AS later
       FROM sync_queue WHERE status = 'failed' ORDER BY retry_count;`,
    );
    expect(rows).toEqual([
      { retried: true, later: true },
      { retried: false, later: null },
    ]);
  });
});

test('the health check in one call has the four columns, and counts who is alive as active jobs', async () => {
  await database.pool.query(
    `insert into outbox.services (id, service, version, seen_at)
     values ('b', 'bridge', '1', now()), ('w', 'worker', '1', now()), ('a', 'api', '1', now()),
       ('dead', 'worker', '1', now() - interval '2 minutes')`,
  );
  expect(await ask('select * from health_check()')).toEqual([
    { active_jobs: '2', pending_items: '1', failed_items: '2', completed_today: '1' },
  ]);
});

test('a retry is counted once it is due', async () => {
  expect(await ask('select invoke_bubble_sync_retry()')).toEqual([{ invoke_bubble_sync_retry: '0' }]);
  expect(notices).toEqual(['No failed items eligible for retry']);
  await database.pool.query(`update outbox.jobs set scheduled_at = now() where state = 'published'`);
  expect(await ask('select invoke_bubble_sync_retry()')).toEqual([{ invoke_bubble_sync_retry: '1' }]);
  expect(notices).toEqual(['Found 1 failed items eligible for retry']);
});

test('both wake a sleeping bridge', async () => {
  const bridge = await database.pool.connect();
  const heard: string[] = [];
  bridge.on('notification', ({ channel }) => heard.push(channel));
  await bridge.query('listen outbox_ready');
  await ask('select invoke_bubble_sync_processor()');
  await ask('select invoke_bubble_sync_retry()');
  await bridge.query('select 1');
  bridge.release(true);
  expect(heard).toEqual(['outbox_ready', 'outbox_ready']);
});

import { randomUUID } from 'node:crypto';
import type { Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createApiPool, SERVICE_KEY, startTestApp, type TestApp } from '../test-app.ts';
import { keyClaims, sign, tokenOf, withSecrets } from '../tokens.fixture.ts';

const TRIGGER_SECRET = 'a-trigger-secret-of-the-tests';

let database: TestDatabase;
let pool: Pool;
let app: TestApp;
/** All that a test has started. */
let started: TestApp[] = [];

beforeEach(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  app = await start({});
});

afterEach(async () => {
  await Promise.all(started.map((each) => each.stop()));
  started = [];
  await pool.end();
  await database.drop();
});

async function start(dependencies: Partial<Parameters<typeof startTestApp>[0]>): Promise<TestApp> {
  const settings = { ...withSecrets, TRIGGER_SECRETS: [TRIGGER_SECRET] };
  const dependenciesOfAll = { db: pool, log: captureLogs().log, settings, triggerWaitMs: 10_000 };
  const one = await startTestApp({ ...dependenciesOfAll, ...dependencies });
  started.push(one);
  return one;
}

async function call(name: string, headers: Record<string, string>, body?: unknown, to = app) {
  const response = await fetch(`${to.url}/functions/v1/${name}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const trigger = { 'x-trigger-secret': TRIGGER_SECRET };

async function addDue(count: number, name = 'reminder_24h'): Promise<string[]> {
  const ids: string[] = [];
  for (let added = 0; added < count; added += 1) {
    const { rows } = await database.pool.query<{ id: string }>(
      `select id from outbox.enqueue(
         name => $1, key => $2, payload => '{}', scheduled_at => now() - interval '1 s'
       )`,
      [name, randomUUID()],
    );
    ids.push(rows[0]?.id ?? '');
  }
  return ids;
}

/** As a worker ends a run. */
async function end(id: string, outcome: 'completed' | 'retried'): Promise<void> {
  await database.pool.query(
    `insert into outbox.attempts (job_id, run, attempt, started_at, outcome)
     values ($1, outbox.new_run(), 1, clock_timestamp(), $2)`,
    [id, outcome],
  );
}

const NAMES = ['process-auto-sync-jobs', 'auto-sync-cron', 'gmb-sync-worker'];

it.each(NAMES)('%s answers in the shape its callers know, with an empty body too', async (name) => {
  expect(await call(name, trigger)).toEqual({
    status: 200,
    body: {
      success: true,
      run_id: expect.any(String) as string,
      jobs_picked: 0,
      jobs_processed: 0,
      jobs_succeeded: 0,
      jobs_failed: 0,
    },
  });
});

it('waits for what is due, ten at most, and tells what became of it', async () => {
  const ids = await addDue(12);
  const waiting = call('process-auto-sync-jobs', trigger);
  await waitFor(async () => {
    const { rows } = await database.pool.query(
      `select 1 from pg_stat_activity where query like '%outbox.attempts%' and application_name = 'outbox api test'`,
    );
    expect(rows.length).toBeGreaterThan(0);
  });
  for (const [position, id] of ids.entries()) await end(id, position === 3 ? 'retried' : 'completed');
  expect((await waiting).body).toMatchObject({
    jobs_picked: 10,
    jobs_processed: 10,
    jobs_succeeded: 9,
    jobs_failed: 1,
  });
});

it('gives up waiting in time', async () => {
  const impatient = await start({ triggerWaitMs: 1 });
  await addDue(1);
  const answer = await call('process-auto-sync-jobs', trigger, undefined, impatient);
  expect(answer.body).toMatchObject({ jobs_picked: 1, jobs_processed: 0 });
});

it('leaves what is not due alone', async () => {
  await database.pool.query(
    `select outbox.enqueue(name => 'reminder_24h', key => 'k', payload => '{}', scheduled_at => now() + interval '1 h')`,
  );
  expect((await call('process-auto-sync-jobs', trigger)).body).toMatchObject({ jobs_picked: 0 });
});

it('wakes a bridge that sleeps', async () => {
  const listener = await database.pool.connect();
  try {
    await listener.query('listen outbox_ready');
    let woken = 0;
    listener.on('notification', () => (woken += 1));
    await call('process-auto-sync-jobs', trigger);
    await waitFor(() => expect(woken).toBe(1));
  } finally {
    listener.release(true);
  }
});

it('a call of gmb-sync-worker is a worker run, with the id it is answered with and the same numbers', async () => {
  const { body } = await call('gmb-sync-worker', trigger);
  const { rows } = await database.pool.query(
    'select id, status, jobs_picked, jobs_processed, jobs_succeeded, jobs_failed, finished_at from gmb.sync_worker_runs',
  );
  const { run_id: id, jobs_picked, jobs_processed, jobs_succeeded, jobs_failed } = body;
  const numbers = { jobs_picked, jobs_processed, jobs_succeeded, jobs_failed };
  expect(rows).toEqual([{ id, status: 'completed', ...numbers, finished_at: expect.any(Date) as Date }]);
});

it('retry_failed waits for those alone that have failed before', async () => {
  const impatient = await start({ triggerWaitMs: 1 });
  const [failed] = await addDue(2, 'bubble_user_sync');
  await database.pool.query('update outbox.jobs set attempt = 1 where id = $1', [failed]);
  const picked = async (action: string) => (await call('bubble_sync', trigger, { action }, impatient)).body.jobs_picked;
  expect(await picked('retry_failed')).toBe(1);
  expect(await picked('process_queue_data_api')).toBe(2);
});

it.each(['process_queue_data_api', 'retry_failed'])('bubble_sync takes the action %s', async (action) => {
  expect(await call('bubble_sync', trigger, { action })).toMatchObject({ status: 200, body: { success: true } });
});

it.each([undefined, {}, { action: 'drop_everything' }])('bubble_sync refuses %j and names the field', async (body) => {
  const answer = await call('bubble_sync', trigger, body);
  expect(answer).toMatchObject({ status: 400, body: { errors: [{ field: 'action' }] } });
});

it('a service key will do, the key for everybody and a user will not', async () => {
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const statusOf = async (headers: Record<string, string>) => (await call('gmb-sync-worker', headers)).status;
  expect(await statusOf(bearer(SERVICE_KEY))).toBe(200);
  expect(await statusOf(bearer(await sign(keyClaims('service_role'))))).toBe(200);
  expect(await statusOf(bearer(await sign(keyClaims('anon'))))).toBe(401);
  expect(await statusOf(bearer(await tokenOf(randomUUID())))).toBe(401);
  expect(await statusOf({ 'x-trigger-secret': 'something-else-entirely' })).toBe(401);
  expect(await statusOf({})).toBe(401);
});

it('the trigger secret opens nothing else', async () => {
  const answer = await fetch(`${app.url}/api/queues`, { headers: trigger });
  expect(answer.status).toBe(401);
});

it('of a family that is switched off it is 404, and says why', async () => {
  const without = await start({ families: ['reminders'] });
  expect(await call('gmb-sync-worker', trigger, undefined, without)).toMatchObject({
    status: 404,
    body: { detail: expect.stringContaining('FAMILIES') as string },
  });
});

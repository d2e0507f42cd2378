import { randomUUID } from 'node:crypto';
import type { Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createApiPool, SERVICE_KEY, startTestApp, type TestApp } from '../test-app.ts';
import { adminTokenOf, tokenOf, withSecrets } from '../tokens.fixture.ts';

let database: TestDatabase;
let pool: Pool;
let app: TestApp;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  app = await startTestApp({ db: pool, log: captureLogs().log, settings: withSecrets });
});

afterAll(async () => {
  await app.stop();
  await pool.end();
  await database.drop();
});

/** A user with one connected account. */
async function addUser() {
  const [userId, accountId] = [randomUUID(), randomUUID()];
  await database.pool.query('insert into auth.users (id) values ($1)', [userId]);
  await database.pool.query(
    `insert into public.gmb_accounts (id, user_id, account_name, account_id) values ($1, $2, 'My Business', $3)`,
    [accountId, userId, `accounts/${accountId}`],
  );
  await database.pool.query(`insert into public.oauth_tokens (account_id, refresh_token) values ($1, 'r')`, [
    accountId,
  ]);
  return { userId, accountId, token: await tokenOf(userId) };
}

interface Call {
  path?: string;
  token?: string;
  body?: unknown;
  headers?: Record<string, string>;
  to?: TestApp;
}

async function call({ path = '/api/gmb/enqueue-sync', token = SERVICE_KEY, body, headers = {}, to = app }: Call) {
  const response = await fetch(to.url + path, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { ...(token === '' ? {} : { authorization: `Bearer ${token}` }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const countJobs = async () => (await database.pool.query('select 1 from outbox.jobs')).rowCount;

describe('POST /api/gmb/enqueue-sync', () => {
  it('answers 201 with the job in the words of its callers, whatever the body is called', async () => {
    const { accountId, token } = await addUser();
    const answer = await call({ token, body: { accountId, syncType: 'full', priority: 10, scheduled_at: null } });
    expect(answer).toEqual({
      status: 201,
      body: {
        message: 'Sync job enqueued successfully',
        job: {
          id: expect.any(String) as string,
          account_id: accountId,
          account_name: 'My Business',
          sync_type: 'full',
          status: 'pending',
          priority: 10,
          created_at: expect.stringMatching(/^\d{4}-.*Z$/) as string,
        },
      },
    });
  });

  it('answers a second request with 200 and the job that waits already', async () => {
    const { accountId, token } = await addUser();
    const first = await call({ token, body: { accountId, syncType: 'incremental' } });
    const second = await call({ token, body: { accountId, syncType: 'full' } });
    expect(second).toEqual({
      status: 200,
      body: {
        message: 'Sync job already queued for this account',
        job_id: (first.body.job as { id: string }).id,
        status: 'pending',
        duplicate: true,
      },
    });
  });

  it('of somebody else’s account says 404, and stores nothing; a service and an admin may', async () => {
    const [owner, stranger] = [await addUser(), await addUser()];
    const body = { accountId: owner.accountId, syncType: 'full' };
    const before = await countJobs();
    expect((await call({ token: stranger.token, body })).status).toBe(404);
    expect((await call({ body: { ...body, accountId: randomUUID() } })).status).toBe(404);
    expect(await countJobs()).toBe(before);
    expect((await call({ body })).status).toBe(201);
    expect((await call({ token: await adminTokenOf(stranger.userId), body })).status).toBe(200);
  });

  it.each([
    ['no JSON', '{"accountId":', 400, undefined],
    ['a type that is none', { accountId: randomUUID(), syncType: 'partial' }, 400, 'syncType'],
    ['an account id that is none', { accountId: '7', syncType: 'full' }, 400, 'accountId'],
    ['a priority that is none', { accountId: randomUUID(), syncType: 'full', priority: 'high' }, 400, 'priority'],
    ['a date that is none', { accountId: randomUUID(), syncType: 'full', scheduled_at: 'soon' }, 400, 'scheduled_at'],
    ['a field it does not know', { accountId: randomUUID(), syncType: 'full', sync: 1 }, 400, 'sync'],
    ['a body that is too large', `"${'x'.repeat(200_000)}"`, 413, undefined],
  ])('refuses %s, names the field and stores nothing', async (_what, body, status, field) => {
    const before = await countJobs();
    const answer = await call({ body });
    expect(answer.status).toBe(status);
    if (field !== undefined) expect(answer.body.errors).toMatchObject([{ field }]);
    expect(await countJobs()).toBe(before);
  });

  it('knows nobody without a token, and a user by the session cookie of our own site', async () => {
    const { accountId, token } = await addUser();
    const body = { accountId, syncType: 'full' };
    expect((await call({ token: '', body })).status).toBe(401);
    const cookie = `sb-project-auth-token=${encodeURIComponent(JSON.stringify({ access_token: token }))}`;
    expect((await call({ token: '', body, headers: { cookie } })).status).toBe(403);
    expect((await call({ token: '', body, headers: { cookie, origin: app.url } })).status).toBe(201);
  });
});

describe('GET /api/gmb/enqueue-sync', () => {
  it('shows a user the own jobs and no others', async () => {
    const [owner, stranger] = [await addUser(), await addUser()];
    await call({ token: owner.token, body: { accountId: owner.accountId, syncType: 'full' } });
    expect(await call({ token: owner.token })).toMatchObject({
      status: 200,
      body: {
        stats: { total: 1, pending: 1, processing: 0, succeeded: 0, failed: 0 },
        jobs: [{ account_id: owner.accountId, sync_type: 'full', status: 'pending', attempts: 0, max_attempts: 3 }],
      },
    });
    expect((await call({ token: stranger.token })).body).toMatchObject({ stats: { total: 0 }, jobs: [] });
  });

  it('asks a service whose queue it wants', async () => {
    const { userId } = await addUser();
    expect((await call({})).body.errors).toMatchObject([{ field: 'user_id' }]);
    expect((await call({ path: `/api/gmb/enqueue-sync?user_id=${userId}` })).status).toBe(200);
  });
});

it('GET /api/diagnostics/sync-queue is for services and admins', async () => {
  const { userId, token } = await addUser();
  const path = '/api/diagnostics/sync-queue';
  expect((await call({ path, token })).status).toBe(403);
  const found = await call({ path, token: await adminTokenOf(userId) });
  expect(found.status).toBe(200);
  const { rows } = await database.pool.query<{ keys: string[] }>(
    'select array(select jsonb_object_keys(gmb.queue_diagnostics())) as keys',
  );
  expect(Object.keys(found.body).sort()).toEqual(rows[0]?.keys.sort());
});

it('without the family all of it is 404, and says why', async () => {
  const without = await startTestApp({ db: pool, log: captureLogs().log, families: ['reminders'] });
  const answer = await call({ to: without, body: { accountId: randomUUID(), syncType: 'full' } });
  expect(answer).toMatchObject({ status: 404, body: { detail: expect.stringContaining('FAMILIES') as string } });
  await without.stop();
});

import { randomUUID } from 'node:crypto';
import type { Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createApiPool, SERVICE_KEY, startTestApp, type TestApp } from '../test-app.ts';
import { tokenOf, withSecrets } from '../tokens.fixture.ts';

let database: TestDatabase;
let pool: Pool;
let app: TestApp;

beforeEach(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  app = await startTestApp({ db: pool, log: captureLogs().log, settings: withSecrets });
});

afterEach(async () => {
  await app.stop();
  await pool.end();
  await database.drop();
});

interface Answer {
  status: number;
  body: { provider?: unknown; providers?: { name: string; breakers: unknown[] }[]; changed?: boolean };
}

async function call(method: string, path: string, body?: unknown, token = SERVICE_KEY): Promise<Answer> {
  const response = await fetch(`${app.url}/api/providers${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Answer['body'] };
}

async function query(sql: string): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(sql)).rows;
}

const google = async () => (await call('GET', '')).body.providers?.find(({ name }) => name === 'google');
const audited = () => query('select actor, role, action, detail from outbox.audit order by id');
const decided = () => query('select name, paused_at, paused_by, reason from outbox.providers order by name');

it('are listed with their limits, and a provider in no trouble has no breakers', async () => {
  const known = await query(
    `select name, coalesce(operator_requests_per_minute, requests_per_minute) as "requestsPerMinute"
     from outbox.providers order by name`,
  );
  const { providers } = (await call('GET', '')).body;
  expect(providers).toEqual(
    known.map((provider) => expect.objectContaining({ ...provider, pausedAt: null, breakers: [] }) as unknown),
  );
});

it("an operator's limit is shown before ours", async () => {
  await query(`update outbox.providers set operator_requests_per_minute = 17 where name = 'google'`);
  expect(await google()).toMatchObject({ requestsPerMinute: 17 });
});

it('say which breakers are open, when one probes, and who was asked to wait; phone numbers are masked', async () => {
  await query(`insert into outbox.breakers
    (provider, tenant, state, consecutive_failures, opened_at, probe_at, limited_until, last_error)
  values
    ('google', '', 'open', 5, '2026-01-01T00:00:00Z', '2126-01-01T00:00:00Z', null, 'no answer for +15555550101'),
    ('google', 'limited', 'closed', 0, null, null, '2126-01-01T00:00:00Z', null),
    ('google', 'well again', 'closed', 0, null, null, '2026-01-01T00:00:00Z', 'of yesterday')`);
  const { breakers } = (await google()) ?? {};
  const closed = { state: 'closed', consecutiveFailures: 0, openedAt: null, probeAt: null, lastError: null };
  expect(breakers).toHaveLength(2);
  expect(breakers).toContainEqual({ ...closed, tenant: 'limited', limitedUntil: '2126-01-01T00:00:00.000Z' });
  expect(breakers).toContainEqual({
    tenant: null,
    state: 'open',
    consecutiveFailures: 5,
    openedAt: '2026-01-01T00:00:00.000Z',
    probeAt: '2126-01-01T00:00:00.000Z',
    limitedUntil: null,
    lastError: expect.not.stringContaining('5555550101') as string,
  });
});

it('are paused and resumed, once each, and that is written down', async () => {
  const paused = { name: 'google', pausedAt: expect.any(String) as string, pausedBy: 'service', reason: 'quota' };
  const free = { name: 'google', pausedAt: null, pausedBy: null, reason: null };
  const pause = (body?: unknown) => call('POST', '/google/pause', body);
  const resume = () => call('POST', '/google/resume');
  expect(await pause({ reason: 'quota' })).toMatchObject({ status: 200, body: { provider: paused, changed: true } });
  expect(await pause()).toMatchObject({ status: 200, body: { provider: paused, changed: false } });
  expect(await google()).toMatchObject(paused);
  expect(await resume()).toMatchObject({ status: 200, body: { provider: free, changed: true } });
  expect(await resume()).toMatchObject({ status: 200, body: { provider: free, changed: false } });
  const service = { actor: 'service', role: 'service' };
  expect(await audited()).toEqual([
    { ...service, action: 'pause-provider', detail: { provider: 'google', reason: 'quota' } },
    { ...service, action: 'resume-provider', detail: { provider: 'google' } },
  ]);
});

it.each<[string, unknown, number]>([
  ['no-such/pause', {}, 404],
  ['no-such/resume', {}, 404],
  ['a%00b/pause', {}, 404],
  ['google/pause', { reason: '' }, 400],
  ['google/pause', { why: 'x' }, 400],
  ['google/resume', { reason: 'x' }, 400],
])('answer POST %s with the body %j with %d, and nothing changes', async (path, body, status) => {
  const before = await decided();
  expect((await call('POST', `/${path}`, body)).status).toBe(status);
  expect(await decided()).toEqual(before);
  expect(await audited()).toEqual([]);
});

it('are no business of a user who is no admin', async () => {
  const user = await tokenOf(randomUUID());
  expect((await call('GET', '', undefined, user)).status).toBe(403);
  expect((await call('POST', '/google/pause', {}, user)).status).toBe(403);
  expect(await audited()).toEqual([]);
});

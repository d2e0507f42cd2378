import { createHmac, randomUUID } from 'node:crypto';
import { connectQueueBackend, HOUR, loadConfig, type Pool, type QueueBackend } from '@outbox/core';
import { sendReminder } from '@outbox/jobs';
import { captureLogs, createTestDatabase, createTestPrefix, type TestDatabase, type TestPrefix } from '@outbox/testing';
import type { Queue } from 'bullmq';
import { apiSettings } from './config.ts';
import {
  BOARD_PASSWORD,
  createApiPool,
  OLD_SESSION_SECRET,
  SERVICE_KEY,
  SESSION_SECRET,
  startTestApp,
  testSettings,
  type TestApp,
} from './test-app.ts';

let database: TestDatabase;
let pool: Pool;
let keys: TestPrefix;
let backend: QueueBackend;
let queue: Queue;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  keys = createTestPrefix();
  const settings = loadConfig(apiSettings, {
    DATABASE_URL: database.url,
    OUTBOX_INSTANCE: 'test',
    REDIS_URL: keys.redisUrl,
    QUEUE_PREFIX: keys.prefix,
    SERVICE_KEYS: SERVICE_KEY,
    BOARD_PASSWORD,
    SESSION_SECRETS: SESSION_SECRET,
  });
  backend = await connectQueueBackend(settings, () => undefined);
  queue = backend.createQueue('reminders');
});

afterAll(async () => {
  await queue.close();
  await backend.close();
  await keys.removeKeys();
  await pool.end();
  await database.drop();
});

/** An app of one's own: tries to log in are counted in it. */
async function serve(settings: Partial<typeof testSettings> = {}) {
  const { log, lines } = captureLogs();
  const app = await startTestApp({ db: pool, log, queues: [queue], settings: { ...testSettings, ...settings } });
  return { app, lines, visit: (path: string, init: RequestInit = {}) => visit(app, path, init) };
}

function visit(app: TestApp, path: string, init: RequestInit): Promise<Response> {
  return fetch(app.url + path, { redirect: 'manual', ...init });
}

interface Login {
  user?: string;
  password?: string;
  next?: string;
  headers?: Record<string, string>;
}

function login(app: TestApp, { user = 'operator', password = BOARD_PASSWORD, next, headers }: Login = {}) {
  const body = new URLSearchParams({ user, password, ...(next === undefined ? {} : { next }) });
  return visit(app, '/admin/login', { method: 'POST', body, headers: headers ?? {} });
}

/** The cookies of an answer as a browser would send them back. */
function cookiesOf(response: Response): string {
  return response.headers
    .getSetCookie()
    .map((cookie) => cookie.replace(/;.*/s, ''))
    .join('; ');
}

function signedSession(session: unknown, secret: string): string {
  const cookie = `outbox_session=${Buffer.from(JSON.stringify(session)).toString('base64')}`;
  const signature = createHmac('sha1', secret).update(cookie).digest('base64');
  return `${cookie}; outbox_session.sig=${signature.replaceAll('/', '_').replaceAll('+', '-').replace(/=+$/, '')}`;
}

const inAnHour = () => ({ user: 'operator', expiresAt: Date.now() + HOUR });

describe('the login', () => {
  it('shows a form that a browser may show as it is, and loads nothing else', async () => {
    const { app, visit } = await serve();
    const response = await visit('/admin/login?next=%2Fadmin%2Fqueues%2Fqueue%2Freminders');
    const html = await response.text();
    await app.stop();
    expect(response.status).toBe(200);
    expect(html).toContain('name="next" value="/admin/queues/queue/reminders"');
    expect(response.headers.get('content-security-policy')).toMatch(/default-src 'none'.*style-src 'sha256-[^']+'/);
    expect(response.headers.get('referrer-policy')).toBe('same-origin');
  });

  it.each([
    { password: 'wrong horse battery' },
    { user: 'admin' },
    { password: '' },
    { user: `${'x'.repeat(300)}` },
    { password: BOARD_PASSWORD.toUpperCase() },
  ])('refuses %p with 401 and no session', async (given) => {
    const { app, visit } = await serve();
    const response = await login(app, given);
    const board = await visit('/admin/queues', { headers: { cookie: cookiesOf(response) } });
    await app.stop();
    expect(response.status).toBe(401);
    expect(await response.text()).toContain('do not match');
    expect(response.headers.getSetCookie()).toEqual([]);
    expect(board.status).toBe(302);
  });

  it('shows what was typed as user again, as text', async () => {
    const { app } = await serve();
    const response = await login(app, { user: '"><script>alert(1)</script>' });
    await app.stop();
    const html = await response.text();
    expect(html).toContain('value="&#34;&#62;&#60;script&#62;alert(1)');
    expect(html).not.toContain('<script');
  });

  it('opens the board for 12 hours, with a cookie that no script and no other site can use', async () => {
    const { app, visit } = await serve();
    const response = await login(app);
    const board = await visit('/admin/queues', { headers: { cookie: cookiesOf(response) } });
    await app.stop();
    expect([response.status, response.headers.get('location')]).toEqual([303, '/admin/queues']);
    expect(response.headers.getSetCookie()).toEqual([
      expect.stringMatching(/^outbox_session=\S+; path=\/admin; expires=[^;]+; samesite=lax; httponly$/),
      expect.stringMatching(/^outbox_session\.sig=\S+; path=\/admin; expires=[^;]+; samesite=lax; httponly$/),
    ]);
    const expires = Date.parse(/expires=([^;]+)/.exec(response.headers.getSetCookie()[0] ?? '')?.[1] ?? '');
    expect(Math.abs(expires - Date.now() - 12 * HOUR)).toBeLessThan(60_000);
    expect(board.status).toBe(200);
    expect(await board.text()).toContain('Outbox Bridge');
  });

  it('makes the cookie secure when people come over https, though TLS ends before us', async () => {
    const { app } = await serve({ PUBLIC_URL: 'https://jobs.example.com' });
    const response = await login(app, { headers: { origin: 'https://jobs.example.com' } });
    await app.stop();
    expect(response.headers.getSetCookie()).toHaveLength(2);
    for (const cookie of response.headers.getSetCookie()) expect(cookie).toMatch(/; secure;/);
    expect(response.headers.get('strict-transport-security')).toMatch(/max-age=31536000/);
  });

  it.each([
    ['/admin/queues/queue/reminders?status=failed', '/admin/queues/queue/reminders?status=failed'],
    ['https://evil.example/admin/queues', '/admin/queues'],
    ['https://evil.example/', '/admin/queues'],
    ['//evil.example/', '/admin/queues'],
    ['//evil.example/admin/queues', '/admin/queues'],
    ['/\\evil.example/admin/queues', '/admin/queues'],
    ['/admin/queues/../../api/jobs', '/admin/queues'],
    ['/admin/queuesandmore', '/admin/queues'],
    ['/admin/logout', '/admin/queues'],
    ['javascript:alert(1)', '/admin/queues'],
    ['http://', '/admin/queues'],
  ])('asked to go on to %s, goes to %s', async (next, location) => {
    const { app } = await serve();
    const response = await login(app, { next });
    await app.stop();
    expect(response.headers.get('location')).toBe(location);
  });

  it.each<Record<string, string>>([
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ])('is not taken from another site (%p)', async (headers) => {
    const { app, visit } = await serve();
    const [into, out] = [await login(app, { headers }), await visit('/admin/logout', { method: 'POST', headers })];
    await app.stop();
    expect([into.status, out.status]).toEqual([403, 403]);
    expect([into.headers.getSetCookie(), out.headers.getSetCookie()]).toEqual([[], []]);
  });

  it('is taken from its own page, by its origin', async () => {
    const { app } = await serve();
    const response = await login(app, { headers: { origin: app.url } });
    await app.stop();
    expect(response.status).toBe(303);
  });

  it('takes ten tries a minute from one address, the right password included', async () => {
    const { app } = await serve();
    const statuses = [];
    for (let count = 0; count < 10; count += 1) statuses.push((await login(app, { password: 'guess' })).status);
    const eleventh = await login(app);
    await app.stop();
    expect(statuses).toEqual(Array<number>(10).fill(401));
    expect(eleventh.status).toBe(429);
    expect(eleventh.headers.get('retry-after')).toBe('60');
    expect(eleventh.headers.getSetCookie()).toEqual([]);
  });

  it('tells visitors behind a trusted proxy apart', async () => {
    const { app } = await serve({ TRUSTED_PROXIES: 1 });
    const from = (address: string) => login(app, { password: 'guess', headers: { 'x-forwarded-for': address } });
    for (let count = 0; count < 10; count += 1) await from('203.0.113.1');
    const [same, other] = [await from('203.0.113.1'), await from('203.0.113.2')];
    await app.stop();
    expect([same.status, other.status]).toEqual([429, 401]);
  });

  it('ends with the logout', async () => {
    const { app, visit } = await serve();
    const cookie = cookiesOf(await login(app));
    const page = await visit('/admin/logout', { headers: { cookie } });
    const response = await visit('/admin/logout', { method: 'POST', headers: { cookie } });
    await app.stop();
    expect(await page.text()).toContain('action="/admin/logout"');
    expect([response.status, response.headers.get('location')]).toEqual([303, '/admin/login']);
    expect(response.headers.getSetCookie()[0]).toMatch(/^outbox_session=; path=\/admin; expires=Thu, 01 Jan 1970/);
  });

  it('leaves no secret in the log', async () => {
    const { app, lines, visit } = await serve();
    const cookie = cookiesOf(await login(app));
    await login(app, { user: 'typed-in-the-wrong-field', password: 'nearly the password' });
    await visit('/admin/queues/api/queues', { headers: { cookie } });
    await app.stop();
    expect(lines.map(({ msg }) => msg)).toEqual(['logged in', 'request', 'login refused', 'request', 'request']);
    const text = JSON.stringify(lines);
    const session = /outbox_session=([^;]+)/.exec(cookie)?.[1];
    for (const secret of [BOARD_PASSWORD, SESSION_SECRET, session, 'nearly', 'wrong-field']) {
      expect(secret).toBeTruthy();
      expect(text).not.toContain(secret);
    }
  });
});

describe('the board', () => {
  it('sends a visitor without a session to the login, and refuses the calls of its script', async () => {
    const { app, visit } = await serve();
    const page = await visit('/admin/queues/queue/reminders?status=delayed');
    const call = await visit('/admin/queues/api/queues');
    const key = await visit('/admin/queues/api/queues', { headers: { authorization: `Bearer ${SERVICE_KEY}` } });
    await app.stop();
    expect(page.status).toBe(302);
    expect(page.headers.get('location')).toBe(
      '/admin/login?next=%2Fadmin%2Fqueues%2Fqueue%2Freminders%3Fstatus%3Ddelayed',
    );
    expect([call.status, key.status]).toEqual([401, 401]);
    expect(call.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  });

  it.each<[string, () => string, number]>([
    ['signed with our secret', () => signedSession(inAnHour(), SESSION_SECRET), 200],
    ['signed with the secret before it', () => signedSession(inAnHour(), OLD_SESSION_SECRET), 200],
    ['signed with another secret', () => signedSession(inAnHour(), 'x'.repeat(32)), 302],
    ['not signed', () => signedSession(inAnHour(), SESSION_SECRET).replace(/;.*/, ''), 302],
    ['with a changed content', () => signedSession(inAnHour(), SESSION_SECRET).replace(/=ey\w/, '=eyX'), 302],
    ['that has run out', () => signedSession({ user: 'operator', expiresAt: Date.now() - 1 }, SESSION_SECRET), 302],
    ['without an end', () => signedSession({ user: 'operator' }, SESSION_SECRET), 302],
  ])('answers a session %s with the right status', async (_title, cookie, status) => {
    const { app, visit } = await serve();
    const response = await visit('/admin/queues', { headers: { cookie: cookie() } });
    await app.stop();
    expect(response.status).toBe(status);
  });

  it('lets its own scripts and styles through its policy, and nothing from elsewhere', async () => {
    const { app, visit } = await serve();
    const headers = { cookie: signedSession(inAnHour(), SESSION_SECRET) };
    const page = await visit('/admin/queues/queue/reminders', { headers });
    const script = /src="(static\/js\/main[^"]+)"/.exec(await page.text())?.[1];
    const file = await visit(`/admin/queues/${script}`, { headers });
    await app.stop();
    const policy = page.headers.get('content-security-policy');
    expect(policy).toContain("default-src 'self'");
    expect(policy).not.toMatch(/https?:|unsafe-eval|script-src/);
    expect(page.headers.get('x-powered-by')).toBeNull();
    expect(file.status).toBe(200);
    expect(file.headers.get('content-type')).toMatch(/javascript/);
  });

  async function addDelayedJob(): Promise<{ id: string; autoSyncId: string }> {
    const id = `${randomUUID()}-1`;
    const autoSyncId = randomUUID();
    await queue.add('reminder_24h', { autoSyncId }, { jobId: id, delay: 24 * HOUR });
    return { id, autoSyncId };
  }

  it('shows of a job its name, when it runs and which auto sync it is for', async () => {
    const { id, autoSyncId } = await addDelayedJob();
    const { app, visit } = await serve();
    const headers = { cookie: signedSession(inAnHour(), SESSION_SECRET) };
    const response = await visit(`/admin/queues/api/queues/reminders/${id}`, { headers });
    await app.stop();
    expect(await response.json()).toMatchObject({
      status: 'delayed',
      job: { id, name: 'reminder_24h', data: { autoSyncId }, delay: 24 * HOUR },
    });
  });

  it('says of a queue what its jobs do', async () => {
    const { app, visit } = await serve();
    const headers = { cookie: signedSession(inAnHour(), SESSION_SECRET) };
    const response = await visit('/admin/queues/api/queues', { headers });
    await app.stop();
    expect(await response.json()).toMatchObject({
      queues: [{ name: 'reminders', description: `reminder_24h: ${sendReminder.description}`, readOnlyMode: true }],
    });
  });

  it.each<[string, string, (id: string) => string]>([
    ['run now', 'PUT', (id) => `/reminders/${id}/promote`],
    ['remove', 'PUT', (id) => `/reminders/${id}/clean`],
    ['change', 'PATCH', (id) => `/reminders/${id}/update-data`],
    ['add', 'POST', () => '/reminders/add'],
    ['pause', 'PUT', () => '/reminders/pause'],
    ['pause all', 'PUT', () => '/pause'],
    ['obliterate', 'PUT', () => '/reminders/obliterate'],
  ])('refuses to %s with 405, and changes nothing', async (_action, method, path) => {
    const { id, autoSyncId } = await addDelayedJob();
    const before = await queue.getJobCounts();
    const { app, visit } = await serve();
    const headers = { cookie: signedSession(inAnHour(), SESSION_SECRET), 'content-type': 'application/json' };
    const body = JSON.stringify({ name: 'reminder_24h', data: {}, autoSyncId: 'another', options: {} });
    const response = await visit(`/admin/queues/api/queues${path(id)}`, { method, headers, body });
    await app.stop();
    expect(response.status).toBe(405);
    expect(response.headers.get('allow')).toBe('GET, HEAD');
    expect(await queue.getJobCounts()).toEqual(before);
    expect(await queue.isPaused()).toBe(false);
    expect(await (await queue.getJob(id))?.getState()).toBe('delayed');
    expect((await queue.getJob(id))?.data).toEqual({ autoSyncId });
  });
});

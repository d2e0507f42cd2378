import { SAMPLE_ACCOUNT, SAMPLE_PROJECT } from '../sample-data.ts';
import { startSimulators } from '../simulators.ts';
import { createGoliothApp, createGoliothStores } from '../golioth/app.ts';
import { startServer, type SimulatorServer } from './server.ts';

let simulators: SimulatorServer;
beforeEach(async () => void (simulators = await startSimulators()));
afterEach(() => simulators.close());

async function call(path: string, init: RequestInit = {}) {
  const response = await fetch(simulators.url + path, init);
  const text = await response.text();
  return { status: response.status, body: (text.startsWith('<') || text === '' ? text : JSON.parse(text)) as unknown };
}

const post = (path: string, body: unknown) =>
  call(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

/** A request of each provider that is carried out when nothing is scripted. */
const ask = {
  bubble: (query = '') => call(`/bubble/api/1.1/obj/user${query}`, { headers: { authorization: 'Bearer token' } }),
  google: (query = '') =>
    call(`/google/token${query}`, {
      method: 'POST',
      body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token: SAMPLE_ACCOUNT.refreshToken }),
    }),
  golioth: (query = '') =>
    call(`/golioth/v1/projects/${SAMPLE_PROJECT.id}/devices${query}`, {
      headers: { 'x-api-key': SAMPLE_PROJECT.apiKey },
    }),
};

const providers = ['bubble', 'google', 'golioth'] as const;

describe.each(providers)('under /%s', (provider) => {
  const others = providers.filter((name) => name !== provider);

  test('faults are scripted, listed and forgotten, and hit nobody else', async () => {
    expect(await post(`/${provider}/faults`, { kind: 'status', status: 503, count: 2 })).toEqual({
      status: 201,
      body: { kind: 'status', status: 503, count: 2 },
    });
    for (const other of others) expect((await ask[other]()).status).toBe(200);
    expect((await ask[provider]()).status).toBe(503);
    expect((await call(`/${provider}/faults`)).body).toEqual([{ kind: 'status', status: 503, count: 1 }]);
    expect((await call(`/${provider}/faults`, { method: 'DELETE' })).status).toBe(204);
    expect((await call(`/${provider}/faults`)).body).toEqual([]);
    expect((await ask[provider]()).status).toBe(200);
  });

  test('a fault that makes no sense is refused with the field named', async () => {
    for (const [fault, field] of [
      [{ kind: 'explode' }, 'kind'],
      [{ kind: 'status', status: 99 }, 'status'],
      [{ kind: 'html', match: { header: 'x' } }, 'header'],
      [{ kind: 'html', untilMs: 0 }, 'untilMs'],
    ] as const) {
      expect(await post(`/${provider}/faults`, fault)).toEqual({
        status: 400,
        body: { error: expect.stringContaining(field) as string },
      });
    }
    expect((await call(`/${provider}/faults`)).body).toEqual([]);
  });

  test('requests are listed with path, query and answer, without the mount, and can be forgotten', async () => {
    await ask[provider]('?a=%3Cb%3E');
    expect((await call(`/${provider}/requests`)).body).toEqual([
      {
        at: expect.stringMatching(/^\d{4}-.*Z$/) as string,
        method: provider === 'google' ? 'POST' : 'GET',
        path: expect.not.stringContaining(provider) as string,
        query: { a: '<b>' },
        status: 200,
        fault: null,
      },
    ]);
    for (const other of others) expect((await call(`/${other}/requests`)).body).toEqual([]);
    expect((await call(`/${provider}/requests`, { method: 'DELETE' })).status).toBe(204);
    expect((await call(`/${provider}/requests`)).body).toEqual([]);
  });

  test('a match wants all it names: a part of the decoded path and query, and the method', async () => {
    const method = provider === 'google' ? 'post' : 'get';
    await post(`/${provider}/faults`, { kind: 'html', match: { path: 'a=<b> c', method } });
    await post(`/${provider}/faults`, { kind: 'html', match: { path: 'a=<b> c', method: 'put' } });
    expect((await ask[provider]('?a=b')).status).toBe(200);
    expect((await ask[provider]('?a=%3Cb%3E+c')).status).toBe(502);
    expect((await ask[provider]('?a=%3Cb%3E%20c')).status).toBe(200);
  });

  test('has a page of its own, and is healthy without credentials', async () => {
    await ask[provider]();
    expect((await call(`/${provider}`)).body).toContain('<html');
    expect((await call(`/${provider}/healthz`)).body).toEqual({ status: 'ok' });
  });
});

test('a match looks for a part of the body as it was sent', async () => {
  await post('/bubble/faults', { kind: 'status', status: 503, match: { body: '"email":"a@' } });
  const create = (email: string) =>
    call('/bubble/api/1.1/obj/user', {
      method: 'POST',
      headers: { authorization: 'Bearer token' },
      body: JSON.stringify({ email }),
    });
  expect([(await create('b@x')).status, (await create('a@x')).status]).toEqual([201, 503]);
});

test('the faults of Bubble can be meant for one operation; those of the others cannot', async () => {
  expect((await post('/bubble/faults', { kind: 'partial', on: 'bulk' })).status).toBe(201);
  expect((await post('/golioth/faults', { kind: 'html', on: 'bulk' })).status).toBe(400);
  expect((await post('/google/faults', { kind: 'partial' })).status).toBe(400);
  expect((await ask.bubble()).status).toBe(200);
});

test('bad credentials use up no fault', async () => {
  for (const provider of ['bubble', 'golioth']) await post(`/${provider}/faults`, { kind: 'html' });
  expect((await call('/bubble/api/1.1/obj/user')).status).toBe(401);
  expect((await call('/golioth/v1/projects')).status).toBe(401);
  expect([(await ask.bubble()).status, (await ask.golioth()).status]).toEqual([502, 502]);
});

test('a fault with a time hits whatever comes until then, and nothing after', async () => {
  let now = 0;
  const stores = createGoliothStores(() => now);
  stores.projects.add({ id: 'hall', apiKey: 'key' });
  const golioth = await startServer(createGoliothApp(stores));
  stores.faults.add({ kind: 'status', status: 503, untilMs: 60_000 });
  const status = async () => (await fetch(`${golioth.url}/v1/projects`, { headers: { 'x-api-key': 'key' } })).status;
  expect([await status(), await status()]).toEqual([503, 503]);
  now = 59_999;
  expect(await status()).toBe(503);
  now = 60_000;
  expect(await status()).toBe(200);
  await golioth.close();
});

test('the page shows what each provider holds and which faults wait, escaped', async () => {
  await call('/bubble/api/1.1/obj/%3Cimg%20src=x%3E', {
    method: 'POST',
    headers: { authorization: 'Bearer token' },
    body: '{}',
  });
  await post('/golioth/faults', { kind: 'drop-after' });
  const response = await fetch(simulators.url);
  const page = await response.text();
  expect(page).toContain('1 of type &lt;img src=x&gt;');
  expect(page).not.toContain('<img');
  expect(page).toContain('1 accounts, 2 locations, 3 reviews');
  expect(page).toContain(`3 devices in ${SAMPLE_PROJECT.id} · faults waiting: drop-after`);
  expect(response.headers.get('content-security-policy')).toContain("default-src 'none'");
});

import { connect } from 'node:net';
import { once } from 'node:events';
import { MessageStore } from './messages.ts';
import { startTwilioSimulator, type TwilioSimulator } from './simulator.ts';

const ACCOUNT = `AC${'1'.repeat(32)}`;
const API = `/2010-04-01/Accounts/${ACCOUNT}`;
const TO = '+15558675310';
const FROM = '+15005550006';

let twilio: TwilioSimulator;
beforeEach(async () => void (twilio = await startTwilioSimulator()));
afterEach(() => twilio.close());

const basic = (name: string, password: string) => `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;

async function call(path: string, init: RequestInit = {}, authorization = basic(ACCOUNT, 'token')) {
  const response = await fetch(twilio.url + path, { ...init, headers: { authorization, ...init.headers } });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('json');
  return { status: response.status, headers: response.headers, body: (isJson ? JSON.parse(text) : text) as unknown };
}

function send(form: Record<string, string>) {
  return call(`${API}/Messages.json`, { method: 'POST', body: new URLSearchParams({ To: TO, From: FROM, ...form }) });
}

async function list(query: Record<string, string> = {}) {
  const { body } = await call(`${API}/Messages.json?${new URLSearchParams(query).toString()}`);
  return body as { messages: { sid: string; body: string }[]; next_page_uri: string | null };
}

const bodiesOf = ({ messages }: Awaited<ReturnType<typeof list>>) => messages.map(({ body }) => body);

test('a created message is queued and not sent yet; read again it is sent and dated', async () => {
  const created = await send({ Body: 'Hi' });
  expect(created.status).toBe(201);
  expect(created.headers.get('twilio-request-id')).toMatch(/^RQ/);
  expect(created.body).toMatchObject({ to: TO, from: FROM, body: 'Hi', status: 'queued', date_sent: null });

  const { sid } = created.body as { sid: string };
  const read = await call(`${API}/Messages/${sid}.json`);
  expect(read.body).toMatchObject({
    sid,
    status: 'sent',
    num_segments: '1',
    date_sent: expect.stringMatching(/^\w{3}, \d\d \w{3} \d{4} [\d:]{8} \+0000$/) as string,
  });
});

test('a Messaging Service accepts and has no number yet', async () => {
  const { body } = await send({ Body: 'Hi', From: '', MessagingServiceSid: `MG${'2'.repeat(32)}` });
  expect(body).toMatchObject({ status: 'accepted', from: null, num_segments: '0' });
});

test.each([
  ['no recipient', { To: '' }, 21604],
  ['malformed recipient', { To: '5551234' }, 21211],
  ['no sender', { From: '' }, 21603],
  ['malformed sender', { From: '!' }, 21212],
  ['a sender named like a method of objects', { From: 'toString', Body: '' }, 21602],
  ['unknown service', { MessagingServiceSid: 'MG1' }, 21705],
  ['no body', { Body: '' }, 21602],
  ['body too long', { Body: 'x'.repeat(1_601) }, 21617],
  ['magic recipient', { To: '+15005550004' }, 21610],
  ['magic sender', { From: '+15005550008' }, 21611],
])('refuses, stores nothing and remembers: %s', async (_title, form, code) => {
  const { status, body } = await send({ Body: 'Hi', ...form });
  expect(status).toBe(400);
  expect(body).toMatchObject({ code, status: 400, more_info: `https://www.twilio.com/docs/errors/${code}` });
  expect(twilio.messages()).toEqual([]);
  expect(twilio.requests()).toMatchObject([{ method: 'POST', status: 400, code, sid: null }]);
});

test.each([
  ['none', ''],
  ['another scheme', 'Bearer token'],
  ['another account', basic(`AC${'9'.repeat(32)}`, 'token')],
  ['no password', basic(ACCOUNT, '')],
])('asks for credentials: %s', async (_title, authorization) => {
  const { status, body } = await call(`${API}/Messages.json`, {}, authorization);
  expect(status).toBe(401);
  expect(body).toMatchObject({ code: 20003 });
});

test('lets in only the listed credentials when there are any, also an API key', async () => {
  await twilio.close();
  twilio = await startTwilioSimulator({ credentials: { [ACCOUNT]: 'right', SK1: 'key' } });
  const statuses = [basic(ACCOUNT, 'right'), basic('SK1', 'key'), basic(ACCOUNT, 'wrong'), basic('SK2', 'key')].map(
    async (authorization) => (await call(`${API}/Messages.json`, {}, authorization)).status,
  );
  expect(await Promise.all(statuses)).toEqual([200, 200, 401, 401]);
});

test('pages run newest first and do not shift when a message arrives in between', async () => {
  for (const body of ['1', '2', '3']) await send({ Body: body });
  const first = await list({ PageSize: '2', To: TO });
  await send({ Body: '4' });
  expect(bodiesOf(first)).toEqual(['3', '2']);
  const second = await call(first.next_page_uri ?? 'missing');
  expect(second.body).toMatchObject({ messages: [{ body: '1' }], next_page_uri: null, page: 1 });
});

test('filters by recipient, sender and day', async () => {
  await send({ Body: 'a' });
  await send({ Body: 'b', To: '+15558675311', From: '+15005550099' });
  const today = new Date().toISOString().slice(0, 10);
  const [yesterday, tomorrow] = [-1, 1].map((days) => new Date(Date.now() + days * 86_400_000).toISOString());

  expect(bodiesOf(await list({ To: TO }))).toEqual(['a']);
  expect(bodiesOf(await list({ From: '+15005550099' }))).toEqual(['b']);
  expect(bodiesOf(await list({ DateSent: today }))).toEqual(['b', 'a']);
  expect(bodiesOf(await list({ 'DateSent>': today, 'DateSent<': today }))).toEqual(['b', 'a']);
  expect(bodiesOf(await list({ 'DateSent>': tomorrow ?? '' }))).toEqual([]);
  expect(bodiesOf(await list({ 'DateSent<': yesterday ?? '' }))).toEqual([]);
  expect((await call(`${API}/Messages.json?DateSent=yesterday`)).body).toMatchObject({ code: 20001 });
});

test('one account does not see the messages of another', async () => {
  const { sid } = (await send({ Body: 'a' })).body as { sid: string };
  const other = `AC${'9'.repeat(32)}`;
  const read = (path: string) => call(`/2010-04-01/Accounts/${other}${path}`, {}, basic(other, 'token'));
  expect((await read('/Messages.json')).body).toMatchObject({ messages: [] });
  expect((await read(`/Messages/${sid}.json`)).body).toMatchObject({ code: 20404 });
});

test('a scripted status is used up by the requests it is meant for', async () => {
  const script = { count: 2, to: TO, kind: 'status', status: 429, code: 20429, retryAfter: 3 };
  const scripted = await call('/faults', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(script),
  });
  expect(scripted.status).toBe(201);

  expect((await send({ Body: 'x', To: '+15558675311' })).status).toBe(201);
  expect((await call(`${API}/Messages.json?To=${encodeURIComponent(TO)}`)).status).toBe(200);
  const refused = await send({ Body: 'x' });
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '3']);
  expect((await call('/faults')).body).toMatchObject([{ count: 1 }]);
  expect((await send({ Body: 'x' })).status).toBe(429);
  expect((await send({ Body: 'x' })).status).toBe(201);
  expect(twilio.messages()).toHaveLength(2);
});

test('an invalid fault is refused with the reason', async () => {
  const headers = { 'content-type': 'application/json' };
  const answers = [{ kind: 'explode' }, { kind: 'delay' }, { kind: 'html', often: true }].map((fault) =>
    call('/faults', { method: 'POST', headers, body: JSON.stringify(fault) }),
  );
  for (const { status } of await Promise.all(answers)) expect(status).toBe(400);
  expect((await call('/faults')).body).toEqual([]);
});

test.each([
  ['drop-before', 0],
  ['drop-after', 1],
] as const)('%s resets the connection with %i message stored', async (kind, stored) => {
  twilio.fault({ kind });
  await expect(send({ Body: 'x' })).rejects.toThrow('fetch failed');
  expect(twilio.messages()).toHaveLength(stored);
  expect(twilio.requests()).toMatchObject([{ status: null, fault: kind, sid: twilio.messages()[0]?.sid ?? null }]);
});

test('html is a 502 that is no JSON', async () => {
  twilio.fault({ kind: 'html' });
  const { status, body } = await send({ Body: 'x' });
  expect(status).toBe(502);
  expect(body).toContain('<html>');
});

test('a delayed message is stored before the answer', async () => {
  twilio.fault({ kind: 'delay', delayMs: 60_000 });
  const socket = connect(twilio.port, '127.0.0.1');
  await once(socket, 'connect');
  const form = new URLSearchParams({ To: TO, From: FROM, Body: 'late' }).toString();
  socket.write(
    `POST ${API}/Messages.json HTTP/1.1\r\nHost: x\r\nAuthorization: ${basic(ACCOUNT, 'token')}\r\n` +
      `Content-Type: application/x-www-form-urlencoded\r\nContent-Length: ${form.length}\r\n\r\n${form}`,
  );
  while (twilio.messages().length === 0) await new Promise(setImmediate);
  expect(socket.bytesRead).toBe(0);
  socket.destroy();
});

test('the page shows the newest first and escapes what it shows', async () => {
  await send({ Body: 'first' });
  await send({ Body: `<script>alert("1")</script> & 'more'` });
  await send({ Body: '' });
  const { body } = await call('/');
  const page = String(body);
  expect(page).toContain('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;more&#39;');
  expect(page).not.toContain('<script>');
  expect(page.indexOf('&lt;script')).toBeLessThan(page.indexOf('first'));
  expect(page).toContain('2 sent · 1 refused · 0 faults waiting');
});

test('what was sent is listed in order, and can be forgotten', async () => {
  await send({ Body: 'first' });
  await send({ Body: 'second' });
  const expected = [
    { to: TO, body: 'first', sid: expect.stringMatching(/^SM/) as string },
    { to: TO, body: 'second', received_at: expect.stringMatching(/^\d{4}-.*Z$/) as string },
  ];
  expect((await call('/messages')).body).toMatchObject(expected);
  expect(twilio.messages()).toMatchObject(expected);

  await call('/messages', { method: 'DELETE' });
  expect((await call('/messages')).body).toEqual([]);
});

test('is healthy without credentials', async () => {
  expect((await call('/healthz', {}, '')).status).toBe(200);
});

test('a taken port is named', async () => {
  await expect(startTwilioSimulator({ port: twilio.port })).rejects.toThrow(`Port ${twilio.port} of 127.0.0.1`);
});

test('the oldest messages are forgotten beyond the limit', () => {
  const store = new MessageStore(2);
  for (const body of ['1', '2', '3']) store.add(ACCOUNT, { To: TO, Body: body });
  expect(store.all().map(({ body }) => body)).toEqual(['2', '3']);
});

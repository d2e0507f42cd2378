import { startBubbleSimulator, type BubbleSimulator } from './simulator.ts';

const USERS = '/version-test/api/1.1/obj/user';

let bubble: BubbleSimulator;
beforeEach(async () => void (bubble = await startBubbleSimulator()));
afterEach(() => bubble.close());

async function call(path: string, init: RequestInit = {}, authorization = 'Bearer token') {
  const response = await fetch(bubble.url + path, { ...init, headers: { authorization, ...init.headers } });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('json');
  return { status: response.status, body: (isJson ? JSON.parse(text) : text) as unknown };
}

const send = (method: string, path: string, fields: object) => call(path, { method, body: JSON.stringify(fields) });

async function search(query: Record<string, string>) {
  const { body } = await call(`${USERS}?${new URLSearchParams(query).toString()}`);
  const { response } = body as { response: { results: Record<string, unknown>[]; count: number; remaining: number } };
  return response;
}

test('a created thing is found by its external id, and read with its dates', async () => {
  bubble.put('user', { external_id: 'other' });
  const created = await send('POST', USERS, { external_id: 'u-1', email: 'a@example.com' });
  expect(created).toMatchObject({ status: 201, body: { status: 'success' } });
  const { id } = created.body as { id: string };
  expect(id).toMatch(/^\d{13}x\d{18}$/);

  const constraints = JSON.stringify([{ key: 'external_id', constraint_type: 'equals', value: 'u-1' }]);
  expect(await search({ constraints })).toMatchObject({ count: 1, remaining: 0, results: [{ _id: id }] });
  expect((await call(`${USERS}/${id}`)).body).toMatchObject({
    response: { _id: id, email: 'a@example.com', 'Created Date': expect.stringMatching(/Z$/) as string },
  });
});

test('a search is cut into pages of at most 100, and says how many remain', async () => {
  for (let number = 0; number < 130; number += 1) bubble.put('user', { number });
  expect(await search({ limit: '500' })).toMatchObject({ cursor: 0, count: 100, remaining: 30 });
  const last = await search({ cursor: '100', limit: '100' });
  expect(last).toMatchObject({ cursor: 100, count: 30, remaining: 0 });
  expect(last.results.map(({ number }) => number)).toEqual(Array.from({ length: 30 }, (_, index) => 100 + index));
});

test('a constraint that needs no value needs none', async () => {
  bubble.put('user', { external_id: 'u-1' });
  bubble.put('user', {});
  const constraints = JSON.stringify([{ key: 'external_id', constraint_type: 'is_empty' }]);
  expect(await search({ constraints })).toMatchObject({ count: 1, remaining: 0 });
});

test('a change answers 204 and touches only the given fields', async () => {
  const id = bubble.put('user', { name: 'A', email: 'a@example.com' });
  expect(await send('PATCH', `${USERS}/${id}`, { name: 'B' })).toEqual({ status: 204, body: '' });
  expect(bubble.things('user')).toMatchObject([{ _id: id, name: 'B', email: 'a@example.com' }]);
});

test('a thing that was removed is MISSING_DATA to a change', async () => {
  const id = bubble.put('user', {});
  bubble.remove('user', id);
  expect(await send('PATCH', `${USERS}/${id}`, { name: 'B' })).toMatchObject({
    status: 404,
    body: { statusCode: 404, body: { status: 'MISSING_DATA', message: expect.stringContaining(id) as string } },
  });
  expect((await call(`${USERS}/${id}`, { method: 'DELETE' })).status).toBe(404);
  expect(bubble.count('user')).toBe(0);
});

test.each(['', 'Basic dXNlcg=='])('asks for a bearer token: "%s"', async (authorization) => {
  const { status, body } = await call(USERS, {}, authorization);
  expect(status).toBe(401);
  expect(body).toMatchObject({ error_class: 'Unauthorized' });
});

test.each([
  ['no JSON', () => call(USERS, { method: 'POST', body: '{"name":' }), 400, 'ERROR'],
  [
    'a constraint nobody knows',
    () => call(`${USERS}?constraints=[{"key":"a","constraint_type":"like","value":"b"}]`),
    404,
    'NOT_FOUND',
  ],
] as const)('refuses %s in the words of Bubble', async (_title, ask, statusCode, status) => {
  expect(await ask()).toMatchObject({ status: statusCode, body: { statusCode, body: { status } } });
});

const bulk = (lines: string[]) =>
  call(`${USERS}/bulk`, { method: 'POST', headers: { 'content-type': 'text/plain' }, body: lines.join('\n') });

const statusesOf = ({ body }: { body: unknown }) =>
  String(body)
    .split('\n')
    .map((line) => (JSON.parse(line) as { status: string }).status);

test('a bulk request has one line of answer for each of its lines, whichever fail', async () => {
  const answer = await bulk(['{"name":"A"}', 'not json', '{"name":"B"}']);
  expect(statusesOf(answer)).toEqual(['success', 'error', 'success']);
  expect(bubble.things('user').map(({ name }) => name)).toEqual(['A', 'B']);
});

test('partial: every second line of a bulk request fails and creates nothing', async () => {
  bubble.fault({ kind: 'partial', on: 'bulk' });
  expect(statusesOf(await bulk(['{"n":1}', '{"n":2}', '{"n":3}']))).toEqual(['success', 'error', 'success']);
  expect(bubble.things('user').map(({ n }) => n)).toEqual([1, 3]);
});

test('partial: any other request is carried out, and its answer breaks off', async () => {
  bubble.fault({ kind: 'partial' });
  await expect(send('POST', USERS, { name: 'A' })).rejects.toThrow(SyntaxError);
  expect(bubble.count('user')).toBe(1);
});

test('a fault meant for creations leaves searches alone', async () => {
  bubble.fault({ kind: 'status', status: 503, on: 'create' });
  expect((await call(USERS)).status).toBe(200);
  expect((await send('POST', USERS, {})).status).toBe(503);
  expect(bubble.count('user')).toBe(0);
});

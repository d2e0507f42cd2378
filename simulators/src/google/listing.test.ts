import { startServer, type SimulatorServer } from '../shared/server.ts';
import { createGoogleApp } from './app.ts';
import { createGoogleStores, type GoogleStores } from './stores.ts';

const LOCATIONS = '/v1/accounts/1/locations?readMask=name';
const REVIEWS = '/v4/accounts/1/locations/2/reviews';

let now: number;
let stores: GoogleStores;
let server: SimulatorServer;
beforeEach(() => start());
afterEach(() => server.close());

/** A Google whose clock is ours, with 25 accounts and 25 locations of one user, and one account of another. */
async function start(quotaPerMinute?: number) {
  now = Date.UTC(2026, 0, 1);
  stores = createGoogleStores(() => now);
  const { directory } = stores;
  for (let id = 1; id <= 25; id += 1) directory.addAccount({ name: `accounts/${id}`, refreshToken: 'ours' });
  for (let id = 1; id <= 25; id += 1) directory.addLocation('accounts/1', { name: `locations/${id}` });
  directory.addAccount({ name: 'accounts/99', refreshToken: 'theirs' });
  server = await startServer(createGoogleApp(stores, quotaPerMinute));
}

async function refresh(refreshToken = 'ours') {
  const form = new URLSearchParams({ refresh_token: refreshToken, grant_type: 'refresh_token' });
  const response = await fetch(`${server.url}/token`, { method: 'POST', body: form });
  return ((await response.json()) as { access_token: string }).access_token;
}

async function get(path: string, token: string) {
  const response = await fetch(server.url + path, { headers: { authorization: `Bearer ${token}` } });
  return { status: response.status, body: JSON.parse(await response.text()) as Record<string, unknown> };
}

const namesOf = ({ body }: Awaited<ReturnType<typeof get>>, list: string) =>
  (body[list] as { name: string }[] | undefined)?.map(({ name }) => name) ?? [];

const tokenOf = ({ body }: Awaited<ReturnType<typeof get>>) => String(body.nextPageToken);

test('accounts come in pages of 20 and locations in pages of 10, unless said', async () => {
  const token = await refresh();
  const accounts = await get('/v1/accounts', token);
  const rest = await get(`/v1/accounts?pageToken=${tokenOf(accounts)}`, token);
  expect([namesOf(accounts, 'accounts').length, namesOf(rest, 'accounts')]).toEqual([
    20,
    ['accounts/21', 'accounts/22', 'accounts/23', 'accounts/24', 'accounts/25'],
  ]);
  expect(namesOf(await get(LOCATIONS, token), 'locations')).toHaveLength(10);
  expect((await get('/v1/accounts?pageSize=21', token)).status).toBe(400);
  expect((await get(`${LOCATIONS}&pageSize=101`, token)).status).toBe(400);
});

test('the size of a page may change from one to the next: nothing is skipped, nothing comes twice', async () => {
  const token = await refresh();
  const first = await get(`${LOCATIONS}&pageSize=3`, token);
  const second = await get(`${LOCATIONS}&pageSize=5&pageToken=${tokenOf(first)}`, token);
  expect([...namesOf(first, 'locations'), ...namesOf(second, 'locations')]).toEqual(
    [1, 2, 3, 4, 5, 6, 7, 8].map((id) => `locations/${id}`),
  );
});

test('a page token is refused by the listing of another path, and by that of another user', async () => {
  const [ours, theirs] = [await refresh('ours'), await refresh('theirs')];
  const pageOfLocations = tokenOf(await get(LOCATIONS, ours));
  const pageOfAccounts = tokenOf(await get('/v1/accounts', ours));
  const answers = [
    await get(`/v1/accounts/2/locations?readMask=name&pageToken=${pageOfLocations}`, ours),
    await get(`/v1/accounts?pageToken=${pageOfLocations}`, ours),
    await get(`/v1/accounts?pageToken=${pageOfAccounts}`, theirs),
    await get('/v1/accounts?pageToken=nonsense', ours),
  ];
  for (const answer of answers) {
    expect(answer).toMatchObject({
      status: 400,
      body: { error: { status: 'INVALID_ARGUMENT', message: 'page_token is invalid.' } },
    });
  }
});

test('a page token of reviews is refused when they are asked for in another order', async () => {
  for (const reviewId of ['r1', 'r2']) stores.directory.addReview('accounts/1', 'locations/2', { reviewId });
  const token = await refresh();
  const next = tokenOf(await get(`${REVIEWS}?pageSize=1&orderBy=rating`, token));
  expect((await get(`${REVIEWS}?orderBy=rating&pageToken=${next}`, token)).status).toBe(200);
  expect((await get(`${REVIEWS}?pageToken=${next}`, token)).status).toBe(400);
});

test('a poisoned page is a page of a listing, of whatever size, and never a token refresh', async () => {
  stores.faults.add({ kind: 'poisoned-page', page: 1, count: 1, match: { path: '/locations' } });
  stores.faults.add({ kind: 'poisoned-page', page: 3, as: 'malformed' });
  const token = await refresh();
  expect((await get(LOCATIONS, token)).body).toMatchObject({ error: { status: 'INTERNAL' } });

  stores.faults.add({ kind: 'poisoned-page', page: 1, count: 1 });
  await refresh();
  expect((await get('/v1/accounts', token)).status).toBe(500);
  expect(stores.requests.all().map(({ fault }) => fault)).toEqual([null, 'poisoned-page', null, 'poisoned-page']);

  const first = await get(`${LOCATIONS}&pageSize=4`, token);
  const second = await get(`${LOCATIONS}&pageSize=3&pageToken=${tokenOf(first)}`, token);
  const third = get(`${LOCATIONS}&pageSize=9&pageToken=${tokenOf(second)}`, token);
  await expect(third).rejects.toThrow(SyntaxError);
});

test('a minute after calls beyond the quota, calls are let in again; the highest minute stays', async () => {
  await server.close();
  await start(2);
  const token = await refresh();
  const statusOf = async () => (await get('/v1/accounts', token)).status;
  expect([await statusOf(), await statusOf(), await statusOf()]).toEqual([200, 200, 429]);
  now += 59_999;
  expect(await statusOf()).toBe(429);
  now += 60_000;
  expect([await statusOf(), stores.rate.highestPerMinute]).toEqual([200, 4]);
});

test('the quota says which API it is of', async () => {
  await server.close();
  await start(0);
  const token = await refresh();
  const serviceOf = async (path: string) => {
    const { body } = await get(path, token);
    return (body as { error: { details: [{ metadata: { service: string } }] } }).error.details[0].metadata.service;
  };
  expect([await serviceOf('/v1/accounts'), await serviceOf(LOCATIONS), await serviceOf(REVIEWS)]).toEqual([
    'mybusinessaccountmanagement.googleapis.com',
    'mybusinessbusinessinformation.googleapis.com',
    'mybusiness.googleapis.com',
  ]);
});

test('an access token is good for 3,599 s', async () => {
  const token = await refresh();
  now += 3_598_999;
  expect((await get('/v1/accounts', token)).status).toBe(200);
  now += 1;
  expect(await get('/v1/accounts', token)).toMatchObject({
    status: 401,
    body: { error: { details: [{ reason: 'ACCESS_TOKEN_EXPIRED' }] } },
  });
});

test.each([
  [{ grant_type: 'authorization_code', refresh_token: 'ours' }, 'unsupported_grant_type'],
  [{ grant_type: 'refresh_token', refresh_token: 'nobody' }, 'invalid_grant'],
  [{ grant_type: 'refresh_token' }, 'invalid_grant'],
])('the token endpoint refuses %j in its own shape', async (form, error) => {
  const answer = await fetch(`${server.url}/token`, { method: 'POST', body: new URLSearchParams(form) });
  expect([answer.status, await answer.json()]).toEqual([
    400,
    { error, error_description: expect.any(String) as string },
  ]);
});

test('scripted words: of the token endpoint its error, of a 429 its limit', async () => {
  const token = await refresh();
  stores.faults.add({ kind: 'status', status: 401, reason: 'invalid_client', match: { path: '/token' } });
  stores.faults.add({ kind: 'status', status: 429, quotaLimitValue: '0', match: { path: '/v1/accounts' } });
  const refused = await fetch(`${server.url}/token`, { method: 'POST' });
  expect([refused.status, await refused.json()]).toMatchObject([401, { error: 'invalid_client' }]);
  expect(await get('/v1/accounts', token)).toMatchObject({
    status: 429,
    body: { error: { details: [{ metadata: { quota_limit_value: '0' } }] } },
  });
});

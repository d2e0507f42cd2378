import { startGoogleSimulator, type GoogleSimulator } from './simulator.ts';

const ACCOUNT = 'accounts/1';
const LOCATION = 'locations/2';
const REVIEWS = `/v4/${ACCOUNT}/${LOCATION}/reviews`;
const LOCATIONS = `/v1/${ACCOUNT}/locations`;

let google: GoogleSimulator;
beforeEach(() => start());
afterEach(() => google.close());

async function start(quotaPerMinute?: number) {
  google = await startGoogleSimulator(quotaPerMinute === undefined ? {} : { quotaPerMinute });
  const locations = [{ name: LOCATION, title: 'North', websiteUri: 'https://example.com' }];
  google.addAccount({ name: ACCOUNT, refreshToken: 'grant', locations });
}

async function refresh(refreshToken = 'grant') {
  const body = new URLSearchParams({
    client_id: 'c',
    client_secret: 's',
    refresh_token: refreshToken,
    grant_type: 'refresh_token',
  });
  const response = await fetch(`${google.url}/token`, { method: 'POST', body });
  return { status: response.status, body: (await response.json()) as { access_token: string } };
}

async function get(path: string, token: string) {
  const response = await fetch(google.url + path, { headers: { authorization: `Bearer ${token}` } });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('json');
  return { status: response.status, body: (isJson ? JSON.parse(text) : text) as Record<string, unknown> };
}

const tokenOf = async () => (await refresh()).body.access_token;

test('a refresh token gives access to its own accounts', async () => {
  google.addAccount({ name: 'accounts/9', refreshToken: 'other' });
  const { status, body } = await refresh();
  expect([status, body]).toMatchObject([200, { expires_in: 3_599, token_type: 'Bearer' }]);
  expect((await get('/v1/accounts', body.access_token)).body).toMatchObject({ accounts: [{ name: ACCOUNT }] });
  expect((await get('/v1/accounts/9/locations?readMask=name', body.access_token)).status).toBe(404);
});

test('a revoked grant is invalid_grant, and its access tokens are no good any more', async () => {
  const token = await tokenOf();
  google.revoke('grant');
  expect(await refresh()).toEqual({
    status: 400,
    body: { error: 'invalid_grant', error_description: 'Token has been expired or revoked.' },
  });
  expect(await get('/v1/accounts', token)).toMatchObject({
    status: 401,
    body: { error: { code: 401, status: 'UNAUTHENTICATED' } },
  });
});

test('an expired access token is UNAUTHENTICATED until it is refreshed', async () => {
  const token = await tokenOf();
  google.expireAccessTokens();
  expect((await get('/v1/accounts', token)).status).toBe(401);
  expect((await get('/v1/accounts', await tokenOf())).status).toBe(200);
});

test('locations need a readMask and show only what it names', async () => {
  const token = await tokenOf();
  expect(await get(LOCATIONS, token)).toMatchObject({
    status: 400,
    body: { error: { code: 400, status: 'INVALID_ARGUMENT' } },
  });
  expect((await get(`${LOCATIONS}?readMask=name,title`, token)).body).toEqual({
    locations: [{ name: LOCATION, title: 'North' }],
  });
});

test('an empty list is left out', async () => {
  const token = await tokenOf();
  expect((await get(REVIEWS, token)).body).toEqual({});
  google.removeLocation(ACCOUNT, LOCATION);
  expect((await get(`${LOCATIONS}?readMask=name`, token)).body).toEqual({});
  expect(await get(REVIEWS, token)).toMatchObject({ status: 404, body: { error: { status: 'NOT_FOUND' } } });
});

function addReviews(count: number) {
  for (let number = 1; number <= count; number += 1) {
    const updateTime = new Date(Date.UTC(2026, 0, number)).toISOString();
    google.addReview(ACCOUNT, LOCATION, { reviewId: `r${number}`, starRating: 'FOUR', updateTime });
  }
}

const idsOf = ({ body }: { body: Record<string, unknown> }) =>
  (body.reviews as { reviewId: string }[]).map(({ reviewId }) => reviewId);

test('reviews come newest first in pages, each once', async () => {
  const token = await tokenOf();
  addReviews(5);
  const first = await get(`${REVIEWS}?pageSize=3`, token);
  expect(first.body).toMatchObject({ averageRating: 4, totalReviewCount: 5 });
  const next = String(first.body.nextPageToken);
  const second = await get(`${REVIEWS}?pageSize=3&pageToken=${next}`, token);
  expect([...idsOf(first), ...idsOf(second)]).toEqual(['r5', 'r4', 'r3', 'r2', 'r1']);
  expect(second.body).not.toHaveProperty('nextPageToken');
  expect((await get(`${LOCATIONS}?readMask=name&pageToken=${next}`, token)).status).toBe(400);
});

test('a changed review becomes the newest', async () => {
  const token = await tokenOf();
  addReviews(3);
  google.updateReview(`${ACCOUNT}/${LOCATION}/reviews/r1`, { starRating: 'ONE' });
  expect(idsOf(await get(REVIEWS, token))).toEqual(['r1', 'r3', 'r2']);
});

test.each(['pageSize=51', 'pageSize=0', 'orderBy=createTime', 'pageToken=nonsense'])(
  'refuses reviews with %s',
  async (query) => {
    expect(await get(`${REVIEWS}?${query}`, await tokenOf())).toMatchObject({
      status: 400,
      body: { error: { status: 'INVALID_ARGUMENT' } },
    });
  },
);

test('calls beyond the quota are refused with its limit, and counted; token refreshes are not', async () => {
  await google.close();
  await start(2);
  const token = await tokenOf();
  const statuses = [];
  for (let call = 0; call < 3; call += 1) statuses.push((await get('/v1/accounts', token)).status);
  expect(statuses).toEqual([200, 200, 429]);
  expect([google.quotaPerMinute, google.highestPerMinute()]).toEqual([2, 3]);
  expect((await refresh()).status).toBe(200);
  expect((await get('/v1/accounts', token)).body).toMatchObject({
    error: {
      code: 429,
      status: 'RESOURCE_EXHAUSTED',
      details: [{ reason: 'RATE_LIMIT_EXCEEDED', metadata: { quota_limit_value: '2' } }],
    },
  });
});

test.each([
  ['error', 500],
  ['malformed', 200],
] as const)('a poisoned page always fails, the others do not: %s', async (as, status) => {
  const token = await tokenOf();
  addReviews(3);
  const { nextPageToken } = (await get(`${REVIEWS}?pageSize=2`, token)).body;
  google.fault({ kind: 'poisoned-page', page: 2, as });
  const ask = () =>
    fetch(`${google.url}${REVIEWS}?pageSize=2&pageToken=${String(nextPageToken)}`, {
      headers: { authorization: `Bearer ${token}` },
    });
  for (const answer of [await ask(), await ask()]) {
    expect(answer.status).toBe(status);
    const body = await answer.text();
    const parse = (): unknown => JSON.parse(body);
    if (as === 'malformed') expect(parse).toThrow(SyntaxError);
    else expect(parse()).toMatchObject({ error: { status: 'INTERNAL' } });
  }
  expect((await get(`${REVIEWS}?pageSize=2`, token)).status).toBe(200);
});

test('a wrong path answers HTML', async () => {
  expect(await get('/v3/accounts', await tokenOf())).toMatchObject({
    status: 404,
    body: expect.stringContaining('<html>') as string,
  });
});

test('a scripted 403 carries its reason', async () => {
  const token = await tokenOf();
  google.fault({ kind: 'status', status: 403, reason: 'SERVICE_DISABLED', match: { path: '/v1/accounts' } });
  expect(await get('/v1/accounts', token)).toMatchObject({
    status: 403,
    body: { error: { status: 'PERMISSION_DENIED', details: [{ reason: 'SERVICE_DISABLED' }] } },
  });
});

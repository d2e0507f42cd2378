import { PermanentError, ProviderUnavailableError, RateLimitedError, SECOND } from '@outbox/core';
import type { GoogleFaultInput } from '@outbox/simulators';
import { only, rowsOf, useGmb, type Row } from './gmb.fixture.ts';
import { REFUSED } from './google-errors.ts';
import { useHandling, type ConnectedAccount } from './sync.fixture.ts';

const gmb = useGmb();
const handling = useHandling(gmb);

/** `locations/1` … `locations/<count>`, each with one review. */
async function connectWithLocations(count: number): Promise<ConnectedAccount> {
  const account = await handling.connect();
  for (let n = 1; n <= count; n += 1) {
    handling.google.addLocation(account.googleName, { name: `locations/${n}`, reviews: [{ reviewId: 'r1' }] });
  }
  return account;
}

const reviewsOf = (n: number) => ({ path: `locations/${n}/reviews` });
const fault = (input: GoogleFaultInput) => handling.google.fault(input);

const tokenRow = async (account: ConnectedAccount) =>
  only(
    await rowsOf(
      gmb.database.pool,
      `select status, last_error, access_token, expires_at > now() + interval '50 minutes' as fresh
       from oauth_tokens where account_id = $1`,
      [account.id],
    ),
  );

const logged = (account: ConnectedAccount): Promise<Row[]> =>
  rowsOf(gmb.database.pool, `select code, context ->> 'location' as location from error_logs where user_id = $1`, [
    account.userId,
  ]);

const refreshes = () => handling.asked().filter((path) => path.endsWith('/token')).length;

describe('what another attempt may mend is no refusal', () => {
  test.each<[string, GoogleFaultInput]>([
    ['an outage', { kind: 'status', status: 503, match: { path: '/locations' } }],
    ['an outage of the token endpoint', { kind: 'status', status: 503, match: { path: 'token' } }],
    ['a connection that breaks', { kind: 'drop-before', match: { path: '/locations' } }],
    ['an answer that gets lost', { kind: 'drop-after', match: { path: '/locations' } }],
    ['a page of a proxy', { kind: 'html', match: { path: '/locations' } }],
    ['no answer in time', { kind: 'delay', delayMs: 10 * SECOND, match: { path: '/locations' } }],
    ['a list that breaks off', { kind: 'poisoned-page', as: 'malformed', count: 1, match: { path: '/locations' } }],
  ])('%s fails the attempt, and the next one succeeds', async (_what, given) => {
    const account = await connectWithLocations(1);
    fault(given);
    const job = await handling.begin(account, 'full');
    const failed = job.attempt();
    await expect(failed).rejects.toBeInstanceOf(ProviderUnavailableError);
    await expect(failed).rejects.toMatchObject({ message: expect.not.stringContaining('ya29') as string });
    expect(await job.attempt()).toMatchObject({ kind: 'done' });
    expect(await handling.reviews(account)).toHaveLength(1);
  });
});

describe('a limit', () => {
  test.each(['/locations', '/reviews', 'token'])('of %s holds the whole provider, and spends nothing', async (path) => {
    const account = await connectWithLocations(1);
    fault({ kind: 'status', status: 429, retryAfter: 7, match: { path } });
    const job = await handling.begin(account, 'full');
    const limited = job.attempt();
    await expect(limited).rejects.toBeInstanceOf(RateLimitedError);
    await expect(limited).rejects.toMatchObject({ retryAfterMs: 7 * SECOND, scope: 'provider' });
    expect(await job.attempt()).toMatchObject({ kind: 'done' });
  });

  test('of nothing at all is for good: the project was never approved', async () => {
    const account = await connectWithLocations(1);
    fault({ kind: 'status', status: 429, quotaLimitValue: '0', match: { path: '/locations' } });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: REFUSED.quotaZero });
  });
});

describe('access', () => {
  test('that we have is used until five minutes before its end, and then exchanged and kept', async () => {
    const account = await connectWithLocations(1);
    await handling.sync(account, 'full');
    expect(refreshes()).toBe(1);
    expect(await tokenRow(account)).toMatchObject({ status: 'active', fresh: true });
    await handling.sync(account, 'full');
    expect(refreshes()).toBe(1);
    await gmb.database.pool.query(
      `update oauth_tokens set expires_at = now() + interval '4 minutes' where account_id = $1`,
      [account.id],
    );
    await handling.sync(account, 'full');
    expect(refreshes()).toBe(2);
  });

  test('that Google does not accept is exchanged once, in the middle of a sync, which goes on', async () => {
    const account = await connectWithLocations(2);
    await handling.sync(account, 'full');
    handling.google.expireAccessTokens();
    expect(await handling.sync(account, 'full')).toMatchObject({ result: { reviews: { read: 2 } } });
    expect(refreshes()).toBe(2);
    expect(await tokenRow(account)).toMatchObject({ status: 'active' });
  });

  test('that is refused with a new token as well is for good, and the user has to connect again', async () => {
    const account = await connectWithLocations(1);
    fault({ kind: 'status', status: 401, count: 2, match: { path: '/locations' } });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: REFUSED.unauthenticated });
    expect(await tokenRow(account)).toMatchObject({ status: 'reconnect_needed', last_error: REFUSED.unauthenticated });
    expect(refreshes()).toBe(2);
  });

  test('that its user has revoked is for good, and is seen at the account until it is connected again', async () => {
    const account = await connectWithLocations(1);
    handling.google.revoke(account.refreshToken);
    const job = await handling.begin(account, 'full');
    const refused = job.attempt();
    await expect(refused).rejects.toBeInstanceOf(PermanentError);
    await expect(refused).rejects.toMatchObject({ code: REFUSED.revoked });
    expect(await tokenRow(account)).toEqual({
      ...{ status: 'reconnect_needed', last_error: REFUSED.revoked, access_token: null, fresh: null },
    });
    const needs = 'select needs_reconnection from gmb.account_source where id = $1';
    expect(await rowsOf(gmb.database.pool, needs, [account.id])).toEqual([{ needs_reconnection: true }]);

    handling.google.addAccount({ name: account.googleName, refreshToken: 'refresh-again' });
    await gmb.database.pool.query(`update oauth_tokens set refresh_token = 'refresh-again' where account_id = $1`, [
      account.id,
    ]);
    await job.attempt();
    expect(await tokenRow(account)).toMatchObject({ status: 'active', last_error: null });
  });

  test('revoked in the middle of a sync ends it there, and deletes nothing', async () => {
    const account = await connectWithLocations(2);
    await handling.sync(account, 'full');
    handling.google.revoke(account.refreshToken);
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ code: REFUSED.revoked });
    expect(await handling.locations(account)).toMatchObject([{ deleted: false }, { deleted: false }]);
  });

  test('to less than we need has to be granted anew', async () => {
    const account = await connectWithLocations(1);
    const reason = 'ACCESS_TOKEN_SCOPE_INSUFFICIENT';
    fault({ kind: 'status', status: 403, reason, match: { path: '/locations' } });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ code: REFUSED.scope });
    expect(await tokenRow(account)).toMatchObject({ status: 'reconnect_needed' });
  });

  test('never granted is refused before Google is asked', async () => {
    const account = await handling.connect({ refreshToken: null });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: REFUSED.revoked });
    expect(handling.asked()).toEqual([]);
  });

  test('by a client that Google does not know is a matter of our settings, and of no account', async () => {
    const account = await connectWithLocations(1);
    fault({ kind: 'status', status: 401, reason: 'invalid_client', match: { path: 'token' } });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: REFUSED.client });
    expect(await tokenRow(account)).toMatchObject({ status: 'active' });
  });
});

describe('one location that cannot be read', () => {
  test.each([
    [403, REFUSED.permission],
    [404, REFUSED.missing],
  ])('for good (%i) is noted for the host, and the others are read', async (status, code) => {
    const account = await connectWithLocations(3);
    fault({ kind: 'status', status, match: reviewsOf(2) });
    expect(await handling.sync(account, 'full')).toMatchObject({
      result: { reviews: { read: 2 }, problems: [{ location: 'locations/2', problem: code }] },
    });
    expect(await handling.reviews(account)).toHaveLength(2);
    expect(await logged(account)).toEqual([{ code, location: 'locations/2' }]);
  });

  test.each(['error', 'malformed'] as const)(
    'for a page that is always %s does not keep the others waiting, and is tried again alone',
    async (as) => {
      const account = await connectWithLocations(3);
      fault({ kind: 'poisoned-page', as, match: reviewsOf(2) });
      const job = await handling.begin(account, 'full');
      await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
      expect((await handling.reviews(account)).map(({ name }) => name)).toEqual([
        ...[`${account.googleName}/locations/1/reviews/r1`, `${account.googleName}/locations/3/reviews/r1`],
      ]);
      const before = handling.asked().length;
      await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
      expect(
        handling
          .asked()
          .slice(before)
          .filter((path) => path.endsWith('/reviews')),
      ).toHaveLength(1);
    },
  );

  test('behind its first page keeps what was read, marks nothing as deleted, and leaves the watermark', async () => {
    const account = await handling.connect();
    const { googleName } = account;
    handling.google.addLocation(googleName, { name: 'locations/1' });
    for (let n = 1; n <= 60; n += 1) handling.google.addReview(googleName, 'locations/1', { reviewId: `r${n}` });
    await handling.sync(account, 'full');
    handling.google.removeReview(`${googleName}/locations/1/reviews/r60`);
    handling.google.addReview(googleName, 'locations/1', { reviewId: 'new' });
    const mark = () =>
      rowsOf(gmb.database.pool, 'select reviews_until from gmb.location_marks where account_id = $1', [account.id]);
    const before = await mark();

    fault({ kind: 'poisoned-page', page: 2, match: reviewsOf(1) });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
    const reviews = await handling.reviews(account);
    expect(reviews).toHaveLength(61);
    expect(reviews.every(({ deleted }) => deleted === false)).toBe(true);
    expect(await mark()).toEqual(before);
  });

  test('is not the reason when three in a row cannot be: Google is left alone', async () => {
    const account = await connectWithLocations(6);
    fault({ kind: 'status', status: 503, count: 100, match: { path: '/reviews' } });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
    expect(handling.asked().filter((path) => path.endsWith('/reviews'))).toHaveLength(3);
  });
});

test('a list of locations with a poisoned page marks nothing as deleted', async () => {
  const account = await handling.connect();
  const add = (n: number) => handling.google.addLocation(account.googleName, { name: `locations/${n}` });
  for (let n = 1; n <= 102; n += 1) add(n);
  await handling.sync(account, 'full');
  fault({ kind: 'poisoned-page', page: 2, match: { path: '/locations' } });
  handling.google.removeLocation(account.googleName, 'locations/1');
  const job = await handling.begin(account, 'full');
  await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
  expect((await handling.locations(account)).every(({ deleted }) => deleted === false)).toBe(true);
});

import { addAccount, rowsOf, useGmb, type TestAccount } from './gmb.fixture.ts';
import type { Review } from './google-pages.ts';
import * as store from './store.ts';

const gmb = useGmb();

let account: TestAccount;
beforeEach(async () => void (account = await addAccount(gmb.database.pool)));

const location = (n: number, title = `Place ${n}`) => ({
  name: `locations/${n}`,
  title,
  metadata: { placeId: `p${n}` },
});

const review = (n: number, updatedAt: string, comment = 'Good'): Review => ({
  ...{ name: `accounts/1/locations/1/reviews/${n}`, reviewer: 'A', rating: 5, reply: null, repliedAt: null },
  ...{ createdAt: '2026-07-01T00:00:00Z', updatedAt, comment, data: { comment, updateTime: updatedAt } },
});

const locations = () =>
  rowsOf(
    gmb.database.pool,
    `select location_id as name, title, deleted_at is not null as deleted, updated_at
     from public.gmb_locations where account_id = $1 order by 1`,
    [account.id],
  );

const reviews = () =>
  rowsOf(
    gmb.database.pool,
    `select right(review_id, 1) as n, comment, deleted_at is not null as deleted, updated_at
     from public.gmb_reviews where account_id = $1 order by 1`,
    [account.id],
  );

const record = (...items: { name: string }[]) => store.recordLocations(gmb.database.pool, account.id, items);
const clock = () => store.readClock(gmb.database.pool);

describe('locations', () => {
  test('are written once, and again only when what Google says of them has another hash', async () => {
    expect(await record(location(1), location(2))).toBe(2);
    const before = await locations();
    expect(before).toMatchObject([{ title: 'Place 1', deleted: false }, { title: 'Place 2' }]);
    expect(await record(location(2), location(1))).toBe(0);
    expect(await locations()).toEqual(before);
    expect(await record(location(1), location(2, 'New name'))).toBe(1);
    expect(await locations()).toMatchObject([before[0] ?? {}, { title: 'New name' }]);
  });

  test('that the host has lost are written again, whatever their hash', async () => {
    await record(location(1));
    await gmb.database.pool.query('delete from public.gmb_locations where account_id = $1', [account.id]);
    expect(await record(location(1))).toBe(1);
  });

  test('listed twice on a page are written once', async () => {
    expect(await record(location(1), location(1))).toBe(1);
  });

  test('that a complete listing does not name are marked deleted, and are back when they are listed again', async () => {
    await record(location(1), location(2));
    const end = async (names: string[]) => store.endLocations(gmb.database.pool, account.id, names, await clock());
    expect(await end(['locations/2'])).toBe(1);
    expect(await locations()).toMatchObject([{ deleted: true }, { deleted: false }]);
    expect(await end(['locations/2'])).toBe(0);
    await record(location(1));
    expect(await locations()).toMatchObject([{ deleted: false }, { deleted: false }]);
  });

  test('are not marked by a listing that began before the last one', async () => {
    await record(location(1), location(2));
    const old = await clock();
    const names = ['locations/1', 'locations/2'];
    await store.endLocations(gmb.database.pool, account.id, names, await clock());
    expect(await store.endLocations(gmb.database.pool, account.id, [], old)).toBe(0);
    expect(await locations()).toMatchObject([{ deleted: false }, { deleted: false }]);
  });

  test('of another account are left alone', async () => {
    const other = await addAccount(gmb.database.pool);
    await store.recordLocations(gmb.database.pool, other.id, [location(1)]);
    await record(location(1));
    await store.endLocations(gmb.database.pool, other.id, [], await clock());
    expect(await locations()).toMatchObject([{ deleted: false }]);
  });
});

describe('reviews', () => {
  const db = () => gmb.database.pool;
  const recordReviews = (...items: Review[]) => store.recordReviews(db(), account.id, 'locations/1', items);
  const end = async (names?: string[], reviewsUntil?: string, listedAt?: string) =>
    store.endReviews(db(), account.id, '1', {
      ...{ location: 'locations/1', listedAt: listedAt ?? (await clock()), reviewsUntil, names },
    });
  const watermark = async () => (await store.listProgress(db(), account.id, '1'))[0]?.reviewsUntil?.toISOString();
  beforeEach(() => record(location(1)));

  test('are written when they are new or have changed, and an older state never replaces a newer one', async () => {
    expect(await recordReviews(review(1, '2026-07-02T00:00:00Z'), review(2, '2026-07-01T00:00:00Z'))).toBe(2);
    expect(await recordReviews(review(1, '2026-07-02T00:00:00Z'))).toBe(0);
    expect(await recordReviews(review(1, '2026-07-03T00:00:00Z', 'Better'))).toBe(1);
    expect(await recordReviews(review(1, '2026-07-02T00:00:00Z'))).toBe(0);
    expect(await reviews()).toMatchObject([
      { n: '1', comment: 'Better' },
      { n: '2', comment: 'Good' },
    ]);
  });

  test('that a complete listing does not name are marked deleted, and no others', async () => {
    await recordReviews(review(1, '2026-07-02T00:00:00Z'), review(2, '2026-07-01T00:00:00Z'));
    expect(await end(undefined)).toBe(0);
    expect(await reviews()).toMatchObject([{ deleted: false }, { deleted: false }]);
    expect(await end([review(2, '').name])).toBe(1);
    expect(await reviews()).toMatchObject([{ deleted: true }, { deleted: false }]);
    await recordReviews(review(1, '2026-07-02T00:00:00Z'));
    expect(await reviews()).toMatchObject([{ deleted: false }, { deleted: false }]);
  });

  test('are not marked by a listing that began before the last one', async () => {
    const { name } = review(1, '');
    await recordReviews(review(1, '2026-07-02T00:00:00Z'));
    const old = await clock();
    await end([name]);
    expect(await end([], undefined, old)).toBe(0);
    expect(await reviews()).toMatchObject([{ deleted: false }]);
  });

  test('have a watermark that only grows', async () => {
    await end(undefined, '2026-07-02T00:00:00Z');
    await end(undefined, '2026-07-01T00:00:00Z');
    await end(undefined);
    expect(await watermark()).toBe('2026-07-02T00:00:00.000Z');
  });

  test('of a location that the host has deleted meanwhile are written nowhere', async () => {
    await gmb.database.pool.query('delete from public.gmb_locations where account_id = $1', [account.id]);
    expect(await recordReviews(review(1, '2026-07-02T00:00:00Z'))).toBe(0);
  });
});

describe('what a job is through with', () => {
  const progress = async (jobId: string) => store.listProgress(gmb.database.pool, account.id, jobId);
  const rowId = async (id: string) => String((await gmb.job(id)).id);
  const end = async (jobId: string) =>
    store.endReviews(gmb.database.pool, account.id, jobId, {
      ...{ location: 'locations/1', listedAt: await clock(), reviewsUntil: undefined, names: undefined },
    });

  test('is known to its next run and to no other job', async () => {
    const { id } = await gmb.ask(account);
    const jobId = await rowId(id);
    await end(jobId);
    expect(await progress(jobId)).toEqual([{ name: 'locations/1', reviewsUntil: null, isDone: true, problem: null }]);
    expect(await progress('999999')).toMatchObject([{ isDone: false }]);
  });

  test('is forgotten when the job is redriven: it begins anew', async () => {
    const { id } = await gmb.ask(account);
    const jobId = await rowId(id);
    await end(jobId);
    for (const change of ['publish', 'claim', 'failed'] as const) await gmb.change(id, change);
    await gmb.database.pool.query('select outbox.redrive(id => $1)', [jobId]);
    expect(await progress(jobId)).toMatchObject([{ isDone: false }]);
  });

  test('with a problem is told to the host once for each job', async () => {
    const { id } = await gmb.ask(account);
    const jobId = await rowId(id);
    const problem = { code: 'google_not_found', message: 'It is not there.' };
    for (let n = 0; n < 2; n += 1) {
      await store.noteProblem(gmb.database.pool, account.id, jobId, 'locations/1', problem);
    }
    const logged = `select user_id, source, code, message, context from public.error_logs where user_id = $1`;
    expect(await rowsOf(gmb.database.pool, logged, [account.userId])).toEqual([
      {
        ...{ user_id: account.userId, source: 'gmb_sync', ...problem },
        context: { account_id: account.id, location: 'locations/1', job_id: id },
      },
    ]);
    expect(await progress(jobId)).toMatchObject([{ isDone: true, problem: problem.code }]);
  });
});

describe('a grant', () => {
  const tokens = async () =>
    rowsOf(
      gmb.database.pool,
      `select refresh_token, access_token, status, last_error from public.oauth_tokens where account_id = $1`,
      [account.id],
    );

  test('that Google does not accept any more says that its user has to connect again', async () => {
    await store.requireReconnection(gmb.database.pool, account.id, 'refresh-1', 'google_grant_revoked');
    expect(await tokens()).toMatchObject([
      { status: 'reconnect_needed', last_error: 'google_grant_revoked', access_token: null },
    ]);
  });

  test('that was given anew meanwhile is another one, and is left alone', async () => {
    await store.requireReconnection(gmb.database.pool, account.id, 'an older one', 'google_grant_revoked');
    expect(await tokens()).toMatchObject([{ status: 'active', refresh_token: 'refresh-1' }]);
  });

  test('that gave an access token works again, and may have been exchanged for another', async () => {
    await store.requireReconnection(gmb.database.pool, account.id, 'refresh-1', 'google_grant_revoked');
    const access = { accessToken: 'a', expiresAt: new Date(Date.now() + 3_600_000), refreshToken: undefined };
    await store.recordAccess(gmb.database.pool, account.id, access);
    expect(await tokens()).toMatchObject([
      { status: 'active', last_error: null, access_token: 'a', refresh_token: 'refresh-1' },
    ]);
    await store.recordAccess(gmb.database.pool, account.id, { ...access, refreshToken: 'refresh-2' });
    expect(await tokens()).toMatchObject([{ refresh_token: 'refresh-2' }]);
  });
});

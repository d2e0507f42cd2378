import { ProviderUnavailableError } from '@outbox/core';
import { rowsOf, useGmb } from './gmb.fixture.ts';
import { REFUSED } from './google-errors.ts';
import { useHandling, type ConnectedAccount } from './sync.fixture.ts';

// Answers that Google may give and the simulator gives only when told to.

const gmb = useGmb();
const handling = useHandling(gmb);

const REVIEWS = { path: 'locations/1/reviews' };
const LOCATIONS = { path: '/locations?' };

/** An account that was synced in full: `locations/1` with so many reviews. */
async function connectSynced(count = 2): Promise<ConnectedAccount> {
  const account = await handling.connect();
  handling.google.addLocation(account.googleName, { name: 'locations/1' });
  for (let n = 1; n <= count; n += 1) {
    handling.google.addReview(account.googleName, 'locations/1', { reviewId: `r${n}`, comment: `Text ${n}` });
  }
  await handling.sync(account, 'full');
  return account;
}

const review = ({ googleName }: ConnectedAccount, n: number, updateTime = new Date().toISOString()) => ({
  ...{ name: `${googleName}/locations/1/reviews/r${n}`, updateTime, comment: 'Later' },
});

/** The next request that fits is answered with this. */
const answer = (match: { path: string }, body: unknown, status = 200) =>
  handling.google.fault({ kind: 'status', status, body, match });

const watermark = (account: ConnectedAccount) =>
  rowsOf(gmb.database.pool, 'select reviews_until from gmb.location_marks where account_id = $1', [account.id]);
const logged = (account: ConnectedAccount) =>
  rowsOf(gmb.database.pool, 'select code from error_logs where user_id = $1', [account.userId]);
const reviewPages = () => handling.asked().filter((path) => path.endsWith('/reviews')).length;

test('a list that has fewer reviews than Google counts marks none as deleted: one may have moved while we read', async () => {
  const account = await connectSynced();
  answer(REVIEWS, { reviews: [review(account, 1)], totalReviewCount: 2 });
  await handling.sync(account, 'full');
  expect(await handling.reviews(account)).toMatchObject([
    { comment: 'Later', deleted: false },
    { comment: 'Text 2', deleted: false },
  ]);
  answer(REVIEWS, { reviews: [review(account, 1)], totalReviewCount: 1 });
  await handling.sync(account, 'full');
  expect(await handling.reviews(account)).toMatchObject([{ deleted: false }, { deleted: true }]);
});

test('a review that cannot be read keeps the rest, deletes nothing, leaves the watermark, and is told to the host', async () => {
  const account = await connectSynced();
  const before = await watermark(account);
  answer(REVIEWS, { reviews: [{ name: 'nobody' }, review(account, 1)], totalReviewCount: 2 });
  expect(await handling.sync(account, 'full')).toMatchObject({
    kind: 'done',
    result: { problems: [{ location: 'locations/1', problem: 'unreadable_reviews' }] },
  });
  expect(await handling.reviews(account)).toMatchObject([
    { comment: 'Later', deleted: false },
    { comment: 'Text 2', deleted: false },
  ]);
  expect(await watermark(account)).toEqual(before);
  expect(await logged(account)).toEqual([{ code: 'unreadable_reviews' }]);
});

test('a location that cannot be read keeps the rest, marks none as deleted, and is told to the host', async () => {
  const account = await connectSynced();
  answer(LOCATIONS, { locations: [{ title: 'Nobody' }] });
  expect(await handling.sync(account, 'full')).toMatchObject({
    result: { locations: { listed: 0, deleted: 0, unreadable: 1 } },
  });
  expect(await handling.locations(account)).toMatchObject([{ deleted: false }]);
  expect(await logged(account)).toEqual([{ code: 'unreadable_locations' }]);
});

test('a location that is not in a state to be read, e.g. not verified, is passed over', async () => {
  const account = await connectSynced();
  answer(REVIEWS, { error: { code: 400, status: 'FAILED_PRECONDITION', message: 'Precondition check failed.' } }, 400);
  expect(await handling.sync(account, 'full')).toMatchObject({
    result: { problems: [{ location: 'locations/1', problem: REFUSED.precondition }] },
  });
  expect(await handling.reviews(account)).toMatchObject([{ deleted: false }, { deleted: false }]);
});

describe('a page token', () => {
  const secondPage = { path: 'pageToken=' };

  test('that Google does not take any more begins the list anew', async () => {
    const account = await connectSynced(60);
    handling.google.fault({ kind: 'status', status: 400, match: secondPage });
    const before = reviewPages();
    expect(await handling.sync(account, 'full')).toMatchObject({ kind: 'done', result: { reviews: { deleted: 0 } } });
    expect(reviewPages() - before).toBe(4);
  });

  test('that Google does not take a second time either is our mistake', async () => {
    const account = await connectSynced(60);
    handling.google.fault({ kind: 'status', status: 400, count: 2, match: secondPage });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: REFUSED.argument });
  });

  test('that leads back to a page that was read ends the attempt, not only its time-out', async () => {
    const account = await connectSynced();
    handling.google.fault({
      ...{ kind: 'status', status: 200, count: 10, match: REVIEWS },
      body: { reviews: [review(account, 1)], nextPageToken: 'again' },
    });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toBeInstanceOf(ProviderUnavailableError);
  });
});

import { DAY, MINUTE } from '@outbox/core';
import { rowsOf, useGmb } from './gmb.fixture.ts';
import { useHandling, type ConnectedAccount } from './sync.fixture.ts';

const gmb = useGmb();
const handling = useHandling(gmb);

const ago = (ms: number) => new Date(Date.now() - ms).toISOString();

/** A location with `count` reviews, of which review 1 changed last; each is a day older than the one before. */
function addLocation({ googleName }: ConnectedAccount, n: number, count = 0): string {
  const name = `locations/${n}`;
  handling.google.addLocation(googleName, { name, title: `Place ${n}` });
  for (let review = 1; review <= count; review += 1) {
    handling.google.addReview(googleName, name, {
      ...{ reviewId: `r${review}`, comment: `Text ${review}`, starRating: 'FOUR', updateTime: ago(review * DAY) },
    });
  }
  return name;
}

const reviewName = ({ googleName }: ConnectedAccount, location: string, n: number) =>
  `${googleName}/${location}/reviews/r${n}`;

const told = (account: ConnectedAccount) =>
  rowsOf(gmb.database.pool, 'select status, last_sync_type from sync_status where account_id = $1', [account.id]);

describe('a full sync', () => {
  test('writes all locations and reviews, however many pages they fill, and tells the host', async () => {
    const account = await handling.connect();
    for (let n = 1; n <= 101; n += 1) addLocation(account, n, n === 1 ? 51 : 0);
    const outcome = await handling.sync(account, 'full');
    expect(outcome).toEqual({
      kind: 'done',
      result: {
        mode: 'full',
        locations: { listed: 101, written: 101, deleted: 0, unreadable: 0 },
        reviews: { read: 51, written: 51, deleted: 0 },
        problems: [],
      },
    });
    const locations = await handling.locations(account);
    expect(locations).toHaveLength(101);
    expect(locations[100]).toEqual({ name: 'locations/101', title: 'Place 101', deleted: false });
    const reviews = await handling.reviews(account);
    expect(reviews).toHaveLength(51);
    expect(reviews[0]).toEqual({
      ...{ name: reviewName(account, 'locations/1', 1), comment: 'Text 1', rating: 4, reply: null, deleted: false },
    });
    expect(await told(account)).toEqual([{ status: 'succeeded', last_sync_type: 'full' }]);
  });

  test('done again writes nothing', async () => {
    const account = await handling.connect();
    addLocation(account, 1, 3);
    await handling.sync(account, 'full');
    expect(await handling.sync(account, 'full')).toMatchObject({
      result: { locations: { written: 0, deleted: 0 }, reviews: { read: 3, written: 0, deleted: 0 } },
    });
  });

  test('marks as deleted what Google does not list any more, and takes it back when it is listed again', async () => {
    const account = await handling.connect();
    const kept = addLocation(account, 1, 2);
    const gone = addLocation(account, 2);
    await handling.sync(account, 'full');
    handling.google.removeLocation(account.googleName, gone);
    handling.google.removeReview(reviewName(account, kept, 2));
    expect(await handling.sync(account, 'full')).toMatchObject({
      result: { locations: { deleted: 1 }, reviews: { deleted: 1 } },
    });
    expect(await handling.locations(account)).toMatchObject([{ deleted: false }, { name: gone, deleted: true }]);
    expect(await handling.reviews(account)).toMatchObject([{ deleted: false }, { deleted: true }]);

    addLocation(account, 2);
    await handling.sync(account, 'full');
    expect(await handling.locations(account)).toMatchObject([{ deleted: false }, { deleted: false }]);
  });

  test('sees an answer of the owner that changed nothing else', async () => {
    const account = await handling.connect();
    const location = addLocation(account, 1, 1);
    await handling.sync(account, 'full');
    const [review] = await handling.reviews(account);
    expect(review).toMatchObject({ reply: null });
    handling.google.updateReview(reviewName(account, location, 1), {
      updateTime: ago(1 * DAY),
      reviewReply: { comment: 'Thank you', updateTime: ago(0) },
    });
    await handling.sync(account, 'full');
    expect(await handling.reviews(account)).toMatchObject([{ reply: 'Thank you' }]);
  });

  test('asks each location once, and says how far it is', async () => {
    const account = await handling.connect();
    addLocation(account, 1, 1);
    addLocation(account, 2);
    const job = await handling.begin(account, 'full');
    await job.attempt();
    expect(job.progress).toEqual([
      { locations: 1, of: 2, reviews: 1 },
      { locations: 2, of: 2, reviews: 1 },
    ]);
  });

  test('that takes too long goes on in the next run, which reads no location again', async () => {
    const account = await handling.connect();
    for (const n of [1, 2, 3]) addLocation(account, n, 1);
    const job = await handling.begin(account, 'full');
    const portionMs = { full: 0, incremental: 0 };
    await expect(job.attempt({ portionMs })).rejects.toMatchObject({ code: 'rate_limited', retryAfterMs: 0 });
    await expect(job.attempt({ portionMs })).rejects.toMatchObject({ code: 'rate_limited' });
    expect(await job.attempt({ portionMs })).toMatchObject({ kind: 'done', result: { reviews: { read: 1 } } });
    expect(handling.asked().filter((path) => path.endsWith('/reviews'))).toHaveLength(3);
    expect(await handling.reviews(account)).toHaveLength(3);
  });
});

describe('an incremental sync', () => {
  test('of an account that was never synced in full reads everything', async () => {
    const account = await handling.connect();
    addLocation(account, 1, 51);
    expect(await handling.sync(account, 'incremental')).toMatchObject({ result: { mode: 'full' } });
    expect(await handling.reviews(account)).toHaveLength(51);
    expect(await told(account)).toEqual([{ status: 'succeeded', last_sync_type: 'incremental' }]);
  });

  test('reads reviews back to the watermark and not the pages behind it', async () => {
    const account = await handling.connect();
    const location = addLocation(account, 1, 120);
    await handling.sync(account, 'full');
    handling.google.addReview(account.googleName, location, { reviewId: 'r0', comment: 'New', updateTime: ago(0) });
    handling.google.updateReview(reviewName(account, location, 120), { comment: 'Changed' });
    const before = handling.asked().length;

    expect(await handling.sync(account, 'incremental')).toMatchObject({
      result: { mode: 'incremental', reviews: { read: 50, written: 2, deleted: 0 } },
    });
    const asked = handling.asked().slice(before);
    expect(asked.filter((path) => path.endsWith('/reviews'))).toHaveLength(1);
    expect(await handling.reviews(account)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ comment: 'New' }),
        expect.objectContaining({ name: reviewName(account, location, 120), comment: 'Changed' }),
      ]) as unknown,
    );
  });

  test('reads on one hour behind the watermark: Google may show a change later than it dates it', async () => {
    const account = await handling.connect();
    const location = addLocation(account, 1, 1);
    await handling.sync(account, 'full');
    // More than a page of them, all from the hour before.
    for (let n = 1; n <= 52; n += 1) {
      const updateTime = ago(1 * DAY + n * MINUTE);
      handling.google.addReview(account.googleName, location, { reviewId: `late${n}`, updateTime });
    }
    await handling.sync(account, 'incremental');
    expect(await handling.reviews(account)).toHaveLength(53);
  });

  test('writes a location again only when it has changed, and deletes nothing', async () => {
    const account = await handling.connect();
    const gone = addLocation(account, 1, 1);
    const renamed = addLocation(account, 2);
    addLocation(account, 3);
    await handling.sync(account, 'full');
    handling.google.removeLocation(account.googleName, gone);
    handling.google.removeLocation(account.googleName, renamed);
    handling.google.addLocation(account.googleName, { name: renamed, title: 'New name' });
    expect(await handling.sync(account, 'incremental')).toMatchObject({
      result: { locations: { listed: 2, written: 1, deleted: 0 }, reviews: { deleted: 0 } },
    });
    expect(await handling.locations(account)).toMatchObject([
      { name: gone, deleted: false },
      { name: renamed, title: 'New name' },
      { title: 'Place 3' },
    ]);
    expect(await handling.reviews(account)).toMatchObject([{ deleted: false }]);
  });

  test('reads all reviews of a location that is new', async () => {
    const account = await handling.connect();
    await handling.sync(account, 'full');
    addLocation(account, 1, 60);
    expect(await handling.sync(account, 'incremental')).toMatchObject({ result: { reviews: { written: 60 } } });
  });

  test('fails after its own time-out, which is shorter than that of the job', async () => {
    const account = await handling.connect();
    addLocation(account, 1);
    await handling.sync(account, 'full');
    handling.google.fault({ kind: 'delay', delayMs: 500, match: { path: '/locations' } });
    const job = await handling.begin(account, 'incremental');
    await expect(job.attempt({ incrementalMs: 20 })).rejects.toMatchObject({ code: 'timeout' });
  });
});

describe('an account', () => {
  test('that is inactive or gone is not asked about', async () => {
    const inactive = await handling.connect({ isActive: false });
    expect(await handling.sync(inactive, 'full')).toEqual({ kind: 'skipped', reason: 'account_inactive' });
    const gone = await handling.connect();
    const job = await handling.begin(gone, 'full');
    await gmb.database.pool.query('delete from gmb_accounts where id = $1', [gone.id]);
    expect(await job.attempt()).toEqual({ kind: 'skipped', reason: 'account_gone' });
    expect(handling.asked()).toEqual([]);
  });

  test('whose Google name is not known gets it from Google, once', async () => {
    const account = await handling.connect({ googleName: null });
    addLocation(account, 1);
    await handling.sync(account, 'full');
    const known = 'select account_id from gmb_accounts where id = $1';
    expect(await rowsOf(gmb.database.pool, known, [account.id])).toEqual([{ account_id: account.googleName }]);
    await handling.sync(account, 'full');
    expect(handling.asked().filter((path) => path.endsWith('/accounts'))).toHaveLength(1);
  });

  test('whose user can manage several is not guessed', async () => {
    const account = await handling.connect({ googleName: null });
    handling.google.addAccount({ refreshToken: account.refreshToken });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: 'google_account_unclear' });
  });

  test('with a Google name that is none is refused before Google is asked', async () => {
    const account = await handling.connect({ googleName: '../1' });
    const job = await handling.begin(account, 'full');
    await expect(job.attempt()).rejects.toMatchObject({ name: 'PermanentError', code: 'google_account_name' });
    expect(handling.asked()).toEqual([]);
  });
});

import type { GoogleFaultInput } from '@outbox/simulators';
import { waitFor } from '@outbox/testing';
import { useGmbWorld, type Account, type Row } from './gmb.fixture.ts';

const world = useGmbWorld();

const bothServices = () => Promise.all([world.start('bridge'), world.start('worker')]);

async function rows(sql: string, account: Account): Promise<Row[]> {
  return (await world.db.pool.query<Row>(sql, [account.id])).rows;
}

const locations = (account: Account) =>
  rows(
    `select location_id as name, title, deleted_at is not null as deleted from gmb_locations where account_id = $1 order by 1`,
    account,
  );
const reviews = (account: Account) =>
  rows('select comment, deleted_at is not null as deleted from gmb_reviews where account_id = $1 order by 1', account);
const syncStatus = (account: Account) =>
  rows('select status, last_sync_type, last_error from sync_status where account_id = $1', account);
const errors = (account: Account) =>
  rows(`select code from error_logs where context ->> 'account_id' = $1::uuid::text order by created_at`, account);

const outcomes = async (id: string) =>
  (
    await world.db.pool.query<{ outcome: string }>(
      'select outcome from outbox.attempts where job_id = outbox.job_id($1) order by run',
      [id],
    )
  ).rows.map(({ outcome }) => outcome);

describe('a sync', () => {
  it('in full brings locations and reviews into the tables, and an incremental one after it what has changed since', async () => {
    const account = await world.connect(3);
    await bothServices();
    const full = await world.ask(account, 'full');
    expect(await world.until(full, 'succeeded')).toMatchObject({ attempts: 1, last_error: null });
    expect(await locations(account)).toMatchObject([
      { name: 'locations/1-1', title: 'Place 1' },
      { name: 'locations/1-2' },
      { name: 'locations/1-3' },
    ]);
    expect(await reviews(account)).toHaveLength(3);
    expect(await syncStatus(account)).toEqual([{ status: 'succeeded', last_sync_type: 'full', last_error: null }]);

    world.google.addReview(account.googleName, 'locations/1-1', { comment: 'New' });
    world.google.updateReview(`${account.googleName}/locations/1-2/reviews/r1`, { comment: 'Better' });
    world.google.removeLocation(account.googleName, 'locations/1-3');
    await world.until(await world.ask(account, 'incremental'), 'succeeded');
    expect((await reviews(account)).map(({ comment }) => comment)).toEqual(['Better', 'Good', 'Good', 'New']);
    expect((await locations(account)).every(({ deleted }) => deleted === false)).toBe(true);

    await world.until(await world.ask(account, 'full'), 'succeeded');
    expect((await locations(account)).map(({ deleted }) => deleted)).toEqual([false, false, true]);
    expect(await syncStatus(account)).toMatchObject([{ status: 'succeeded', last_sync_type: 'full' }]);
  });

  it('is seen in the runs of the worker that did it, and in the diagnostics', async () => {
    const account = await world.connect();
    const id = await world.ask(account, 'full');
    await Promise.all([world.start('bridge', { SWEEP_INTERVAL: '1s' }), world.start('worker')]);
    await world.until(id, 'succeeded');
    await waitFor(
      async () => {
        expect(await world.asService('select * from sync_worker_runs')).toMatchObject([
          {
            ...{ status: 'completed', jobs_picked: 1, jobs_processed: 1, jobs_succeeded: 1, jobs_failed: 0 },
            metadata: { jobs: [{ job_id: id, account_id: account.id, outcome: 'completed' }] },
          },
        ]);
      },
      { timeoutMs: 10_000 },
    );
    expect(await world.asService('select queue_diagnostics() as answer')).toMatchObject([
      { answer: { depth: { pending: 0, succeeded: 1, failed: 0 }, worker_runs: { last_hour: { completed: 1 } } } },
    ]);
  });

  it('of an account that is deactivated while it waits is never done', async () => {
    const account = await world.connect();
    await world.start('bridge');
    const id = await world.ask(account, 'full');
    await world.db.pool.query('update gmb_accounts set is_active = false where id = $1', [account.id]);
    expect(await world.asService('select from sync_queue where id = $1', [id])).toEqual([]);
    const other = await world.connect();
    const next = await world.ask(other, 'full');
    await world.start('worker');
    await world.until(next, 'succeeded');
    expect(world.google.requests().every(({ path }) => !path.includes(account.googleName))).toBe(true);
  });

  it('of a user comes before a scheduled one, and that before a batch', async () => {
    const asked: [Account, number][] = [];
    for (const priority of [-10, 0, 20]) asked.push([await world.connect(), priority]);
    await world.start('bridge');
    const ids: string[] = [];
    for (const [account, priority] of asked) ids.push(await world.ask(account, 'full', priority));
    await waitFor(async () => {
      const { rows: waiting } = await world.db.pool.query("select from outbox.jobs where state = 'published'");
      expect(waiting).toHaveLength(3);
    });
    await world.start('worker', { CONCURRENCY: '1' });
    for (const id of ids) await world.until(id, 'succeeded');
    const order = await world.asService('select priority from sync_queue order by completed_at');
    expect(order.map(({ priority }) => priority)).toEqual([20, 0, -10]);
  });

  it('whose worker is killed is done by another one, once, and its run has failed', async () => {
    const account = await world.connect(3);
    const rescue = { LEASE: '2s', STALLED_INTERVAL: '1s' };
    // Whether the first worker gets to ask for them or not: it is killed before it has the answer.
    world.google.fault({ kind: 'delay', delayMs: 2_000, count: 2, match: { path: 'locations/1-2/reviews' } });
    const [, first] = await Promise.all([
      world.start('bridge', { SWEEP_INTERVAL: '1s' }),
      world.start('worker', rescue),
    ]);
    const id = await world.ask(account, 'full');
    await waitFor(async () => expect(await reviews(account)).toHaveLength(1), { timeoutMs: 10_000 });
    await first.kill('SIGKILL');
    await world.start('worker', rescue);
    const done = await world.until(id, 'succeeded', 30_000);
    expect(await outcomes(id)).toEqual(['interrupted', 'completed']);
    expect(done).toMatchObject({ attempts: 1 });
    expect(await reviews(account)).toHaveLength(3);
    await waitFor(
      async () => {
        const runs = await world.asService('select status from sync_worker_runs order by started_at');
        expect(runs).toEqual([{ status: 'failed' }, { status: 'completed' }]);
      },
      { timeoutMs: 10_000 },
    );
  }, 60_000);
});

describe('what goes wrong at Google for a while', () => {
  it.each<[string, GoogleFaultInput]>([
    ['an outage', { kind: 'status', status: 503, match: { path: '/locations' } }],
    ['no answer in time', { kind: 'delay', delayMs: 60_000, match: { path: '/locations' } }],
    ['a connection that breaks', { kind: 'drop-before', match: { path: '/reviews' } }],
    ['an answer that gets lost', { kind: 'drop-after', match: { path: '/locations' } }],
    ['a page of a proxy', { kind: 'html', match: { path: '/reviews' } }],
    ['an outage of the token endpoint', { kind: 'status', status: 500, match: { path: 'token' } }],
  ])('%s costs an attempt; the next one does it', async (_what, fault) => {
    const account = await world.connect();
    world.google.fault(fault);
    await Promise.all([world.start('bridge'), world.start('worker', { GOOGLE_TIMEOUT_MS: '500' })]);
    const id = await world.ask(account, 'full');
    expect(await world.until(id, 'succeeded')).toMatchObject({ attempts: 2 });
    expect(await outcomes(id)).toEqual(['retried', 'completed']);
    expect(await reviews(account)).toHaveLength(1);
  });

  it('a limit costs time and no attempt', async () => {
    const account = await world.connect();
    world.google.fault({ kind: 'status', status: 429, retryAfter: 1, match: { path: '/locations' } });
    await bothServices();
    const id = await world.ask(account, 'full');
    expect(await world.until(id, 'succeeded')).toMatchObject({ attempts: 1 });
    expect(await outcomes(id)).toEqual(['parked', 'completed']);
  });

  it('access tokens that have expired are exchanged in the middle of it', async () => {
    const account = await world.connect();
    await bothServices();
    await world.until(await world.ask(account, 'full'), 'succeeded');
    world.google.expireAccessTokens();
    const id = await world.ask(account, 'full');
    expect(await world.until(id, 'succeeded')).toMatchObject({ attempts: 1 });
    expect(await outcomes(id)).toEqual(['completed']);
  });
});

describe('what does not get better', () => {
  it('a revoked grant fails the sync at once, and is seen at the account, its status and in the log', async () => {
    const account = await world.connect();
    world.google.revoke(account.refreshToken);
    await bothServices();
    const id = await world.ask(account, 'full');
    expect(await world.until(id, 'failed')).toMatchObject({
      ...{ attempts: 1, last_error: expect.stringContaining('invalid_grant') as string },
    });
    const grant = 'select status, last_error from oauth_tokens where account_id = $1';
    expect(await rows(grant, account)).toEqual([{ status: 'reconnect_needed', last_error: 'google_grant_revoked' }]);
    expect(await syncStatus(account)).toMatchObject([
      { status: 'failed', last_error: expect.stringContaining('invalid_grant') as string },
    ]);
    expect(await errors(account)).toEqual([{ code: 'google_grant_revoked' }]);
  });

  it('a page that can never be read spends the attempts of its sync, deletes nothing, and keeps what could be read', async () => {
    const account = await world.connect(3);
    await bothServices();
    await world.until(await world.ask(account, 'full'), 'succeeded');
    for (const n of [1, 2, 3]) world.google.addReview(account.googleName, `locations/1-${n}`, { comment: `New ${n}` });
    world.google.removeReview(`${account.googleName}/locations/1-2/reviews/r1`);
    world.google.fault({ kind: 'poisoned-page', match: { path: 'locations/1-2/reviews' } });

    const id = await world.ask(account, 'full');
    expect(await world.until(id, 'failed')).toMatchObject({ attempts: 3 });
    expect(await outcomes(id)).toEqual(['retried', 'retried', 'failed']);
    expect(await reviews(account)).toEqual(
      ['Good', 'Good', 'Good', 'New 1', 'New 3'].map((comment) => ({ comment, deleted: false })),
    );
    expect(await syncStatus(account)).toMatchObject([{ status: 'failed' }]);
    expect(await errors(account)).toEqual([{ code: 'attempts_spent' }]);

    // A person runs it again when Google has mended it.
    world.google.clearFaults();
    await world.asService(`update sync_queue set status = 'pending' where id = $1`, [id]);
    expect(await world.until(id, 'succeeded')).toMatchObject({ attempts: 1 });
    expect((await reviews(account)).filter(({ deleted }) => deleted)).toEqual([{ comment: 'Good', deleted: true }]);
  });
});

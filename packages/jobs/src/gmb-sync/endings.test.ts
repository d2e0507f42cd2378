import { only, rowsOf, useGmb, type Change } from './gmb.fixture.ts';
import * as store from './store.ts';

const gmb = useGmb();

const told = (accountId: string) =>
  rowsOf(
    gmb.database.pool,
    'select status, last_sync_type, last_error, last_synced_at, last_failed_at from sync_status where account_id = $1',
    [accountId],
  );
const logged = (accountId: string) =>
  rowsOf(
    gmb.database.pool,
    `select user_id, source, code, message, context from error_logs where context ->> 'account_id' = $1`,
    [accountId],
  );
const setAside = () =>
  rowsOf(gmb.database.pool, `select key, healed_at from outbox.capture_errors where job_name = 'gmb_sync'`);
const sweep = async () => only(await rowsOf(gmb.database.pool, 'select gmb.sweep() as answer')).answer;

const FAIL: Change[] = ['publish', 'claim', 'failed'];

describe('a sync that has failed for good', () => {
  test('is told to the host and found in its log, whoever ended it', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental' }, ...FAIL);
    expect(await told(account.id)).toMatchObject([
      { status: 'failed', last_error: 'Error: Google is down', last_failed_at: expect.any(Date) as Date },
    ]);
    expect(await logged(account.id)).toEqual([
      {
        ...{ user_id: account.userId, source: 'gmb_sync', code: 'attempts_spent', message: 'Error: Google is down' },
        context: { account_id: account.id, job_id: id, sync_type: 'incremental', attempts: 1 },
      },
    ]);
  });

  test('and is redriven and fails again is told again', async () => {
    const { id, account } = await gmb.add({}, ...FAIL);
    await gmb.database.pool.query('select outbox.redrive(id => outbox.job_id($1))', [id]);
    for (const change of FAIL) await gmb.change(id, change);
    expect(await logged(account.id)).toHaveLength(2);
  });

  test.each<[string, Change[]]>([
    ['retried', ['publish', 'claim', 'retry']],
    ['completed', ['publish', 'claim', 'completed']],
    ['skipped', ['publish', 'claim', 'skipped']],
  ])('is not one that was %s', async (_how, changes) => {
    const { account } = await gmb.add({}, ...changes);
    expect(await logged(account.id)).toEqual([]);
    expect(await told(account.id)).toEqual([]);
  });

  test('of an account that is gone is told to nobody', async () => {
    const { id, account } = await gmb.add({}, 'publish', 'claim');
    await gmb.database.pool.query('delete from gmb_accounts where id = $1', [account.id]);
    await gmb.change(id, 'failed');
    expect(await logged(account.id)).toEqual([]);
    expect(await setAside()).toEqual([]);
  });
});

describe('a failure that cannot be told', () => {
  /** The host has locked what it would be told in, or its function is broken. */
  const breakHost = () =>
    gmb.database.pool.query('alter table public.sync_status add constraint broken check (false) not valid');
  const mendHost = () => gmb.database.pool.query('alter table public.sync_status drop constraint if exists broken');

  afterEach(async () => {
    await mendHost();
    await gmb.database.pool.query('delete from outbox.capture_errors');
  });

  test('ends the sync all the same, is set aside, and is told by the sweep once it can be', async () => {
    await breakHost();
    const { id, account } = await gmb.add({}, ...FAIL);
    expect(await gmb.job(id)).toMatchObject({ state: 'failed' });
    expect(await setAside()).toEqual([{ key: account.id, healed_at: null }]);
    expect(await sweep()).toMatchObject({ recovered: 0, failed: 1, error: expect.any(String) as string });

    await mendHost();
    expect(await sweep()).toMatchObject({ recovered: 1, failed: 0 });
    expect(await told(account.id)).toMatchObject([{ status: 'failed' }]);
    expect(await logged(account.id)).toHaveLength(1);
    expect(await sweep()).toMatchObject({ recovered: 0 });
  });

  test('is forgotten when the account has been synced since: that is how it stands', async () => {
    await breakHost();
    const { account } = await gmb.add({}, ...FAIL);
    await mendHost();
    const { id } = await gmb.ask(account);
    for (const change of ['publish', 'claim', 'completed'] as const) await gmb.change(id, change);
    expect(await sweep()).toMatchObject({ recovered: 1 });
    expect(await told(account.id)).toEqual([]);
  });
});

describe('a sync that has succeeded', () => {
  test('is told to the host, which forgets the error before it', async () => {
    const { account } = await gmb.add({}, ...FAIL);
    await store.recordSuccess(gmb.database.pool, account.id, 'incremental', false);
    expect(await told(account.id)).toMatchObject([
      {
        ...{ status: 'succeeded', last_sync_type: 'incremental', last_error: null },
        ...{ last_synced_at: expect.any(Date) as Date, last_failed_at: expect.any(Date) as Date },
      },
    ]);
    expect(await store.findAccount(gmb.database.pool, account.id)).toMatchObject({ fullSyncedAt: null });
  });

  test('in full is what an incremental one goes on from', async () => {
    const { account } = await gmb.add();
    await store.recordSuccess(gmb.database.pool, account.id, 'full', true);
    const found = await store.findAccount(gmb.database.pool, account.id);
    expect(found).toMatchObject({ fullSyncedAt: expect.any(Date) as Date });
  });
});

test('what was remembered of an account that is gone is swept away', async () => {
  const { account } = await gmb.add();
  await store.recordSuccess(gmb.database.pool, account.id, 'full', true);
  await store.recordLocations(gmb.database.pool, account.id, [{ name: 'locations/1' }]);
  await sweep();
  const marks = `
    select (select count(*) from gmb.account_marks a where a.account_id = $1)::int as accounts,
      (select count(*) from gmb.location_marks l where l.account_id = $1)::int as locations`;
  expect(await rowsOf(gmb.database.pool, marks, [account.id])).toEqual([{ accounts: 1, locations: 1 }]);
  await gmb.database.pool.query('delete from gmb_accounts where id = $1', [account.id]);
  await sweep();
  expect(await rowsOf(gmb.database.pool, marks, [account.id])).toEqual([{ accounts: 0, locations: 0 }]);
});

test('only one sweep is at it: another one finds that out and does nothing', async () => {
  const first = await gmb.begin();
  await first.query('select gmb.sweep()');
  expect(await sweep()).toBeNull();
});

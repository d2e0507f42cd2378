import { only, rowsOf, useGmb, type Change } from './gmb.fixture.ts';

const gmb = useGmb();

const setActive = (accountId: string, isActive: boolean) =>
  gmb.database.pool.query('update gmb_accounts set is_active = $2 where id = $1', [accountId, isActive]);
const remove = (accountId: string) => gmb.database.pool.query('delete from gmb_accounts where id = $1', [accountId]);
const sweep = async () => only(await rowsOf(gmb.database.pool, 'select gmb.sweep() as answer')).answer;

const CANCELLED = { state: 'cancelled', reason: 'account_inactive' };

describe.each<[string, Change[]]>([
  ['waiting', []],
  ['published', ['publish']],
  ['backing off', ['publish', 'claim', 'retry']],
])('a %s sync', (_state, changes) => {
  test('is cancelled when its account is deactivated, and the bridge takes it out of BullMQ', async () => {
    const { id, account } = await gmb.add({}, ...changes);
    await setActive(account.id, false);
    expect(await gmb.job(id)).toMatchObject(CANCELLED);
    expect((await gmb.bridgeWork(id)).removals).toEqual([1]);
  });

  test('is cancelled when its account is deleted, also with its user', async () => {
    const first = await gmb.add({}, ...changes);
    await remove(first.account.id);
    expect(await gmb.job(first.id)).toMatchObject(CANCELLED);
    const second = await gmb.add({}, ...changes);
    await gmb.database.pool.query('delete from auth.users where id = $1', [second.account.userId]);
    expect(await gmb.job(second.id)).toMatchObject(CANCELLED);
  });
});

test('a running sync is asked to stop', async () => {
  const { id, account } = await gmb.add({}, 'publish', 'claim');
  await setActive(account.id, false);
  expect(await gmb.job(id)).toMatchObject({ state: 'active', cancel_requested_at: expect.any(Date) as Date });
});

test('other changes of an account, and an account that is activated, leave its sync alone and ask for none', async () => {
  const { id, account } = await gmb.add();
  await gmb.database.pool.query(`update gmb_accounts set account_name = 'Another' where id = $1`, [account.id]);
  expect(await gmb.job(id)).toMatchObject({ state: 'pending', generation: 1 });
  await setActive(account.id, false);
  await setActive(account.id, true);
  const open = 'select from outbox.jobs where key = $1 and finished_at is null';
  expect(await rowsOf(gmb.database.pool, open, [account.id])).toEqual([]);
});

test('a rolled-back deactivation cancels nothing', async () => {
  const { id, account } = await gmb.add();
  const client = await gmb.begin();
  await client.query('update gmb_accounts set is_active = false where id = $1', [account.id]);
  await client.query('rollback');
  expect(await gmb.job(id)).toMatchObject({ state: 'pending' });
});

describe('with the triggers disabled', () => {
  const triggers = (what: 'enable' | 'disable') =>
    gmb.database.pool.query(`alter table public.gmb_accounts ${what} trigger user`);
  beforeEach(() => triggers('disable'));
  afterEach(() => triggers('enable'));

  test('the sweep cancels what waits for an account that is inactive or gone, and nothing else', async () => {
    const inactive = await gmb.add({}, 'publish');
    const gone = await gmb.add();
    const active = await gmb.add();
    const running = await gmb.add({}, 'publish', 'claim');
    await setActive(inactive.account.id, false);
    await setActive(running.account.id, false);
    await remove(gone.account.id);
    expect(await sweep()).toMatchObject({ cancelled: 2, more: false });
    expect(await gmb.job(inactive.id)).toMatchObject(CANCELLED);
    expect(await gmb.job(gone.id)).toMatchObject(CANCELLED);
    expect(await gmb.job(active.id)).toMatchObject({ state: 'pending' });
    expect(await gmb.job(running.id)).toMatchObject({ state: 'active', cancel_requested_at: null });
  });

  test('and the rule as well, by a person, the sweep leaves them', async () => {
    await gmb.database.pool.query(`update outbox.captures set enabled = false where name = 'gmb.accounts'`);
    const { id, account } = await gmb.add();
    await setActive(account.id, false);
    expect(await sweep()).toMatchObject({ cancelled: 0 });
    expect(await gmb.job(id)).toMatchObject({ state: 'pending' });
    await gmb.database.pool.query(`update outbox.captures set enabled = true where name = 'gmb.accounts'`);
  });
});

import { randomUUID } from 'node:crypto';
import { HOUR, MINUTE } from '@outbox/core';
import { waitFor } from '@outbox/testing';
import { addAccount, rowsOf, useGmb, type TestAccount } from './gmb.fixture.ts';
import { gmbSync } from './job.ts';

const gmb = useGmb();

const inAnHour = () => new Date(Date.now() + 1 * HOUR).toISOString();
const inAMinute = () => new Date(Date.now() + 1 * MINUTE).toISOString();

describe('asking for a sync', () => {
  test('leaves one pending job of the account and its user, which gmbSync can read and the bridge will find', async () => {
    const account = await addAccount(gmb.database.pool);
    const { id, ...answer } = await gmb.ask(account, {
      syncType: 'incremental',
      priority: 20,
      metadata: { by: 'test' },
    });
    expect(answer).toEqual({ status: 'pending', duplicate: false });
    const job = await gmb.job(id);
    const payload = gmbSync.payload.parse(job.payload);
    expect(payload).toEqual({ accountId: account.id, syncType: 'incremental', metadata: { by: 'test' } });
    expect(job).toMatchObject({ key: gmbSync.key(payload), owner_id: account.userId, priority: 20, max_attempts: 3 });
    expect(await gmb.bridgeWork(id)).toEqual({ ready: [1], removals: [] });
  });

  test('is rolled back with the transaction that asked', async () => {
    const account = await addAccount(gmb.database.pool);
    const client = await gmb.begin();
    await gmb.ask(account, {}, client);
    await client.query('rollback');
    expect(await rowsOf(gmb.database.pool, 'select from outbox.jobs where key = $1', [account.id])).toEqual([]);
  });

  test('honours the instant and the number of attempts', async () => {
    const scheduledAt = inAnHour();
    const { id } = await gmb.add({ scheduledAt, maxAttempts: 5 });
    expect(await gmb.shown(id)).toMatchObject({ scheduled_at: new Date(scheduledAt), max_attempts: 5 });
  });

  test('of an account of somebody else, or of none, is refused and leaves nothing', async () => {
    const account = await addAccount(gmb.database.pool);
    for (const foreign of [
      { ...account, userId: randomUUID() },
      { ...account, id: randomUUID() },
    ]) {
      await expect(gmb.ask(foreign)).rejects.toMatchObject({ code: 'OB010', column: 'account_id' });
    }
    expect(await rowsOf(gmb.database.pool, 'select from outbox.jobs where key = $1', [account.id])).toEqual([]);
  });

  test('without a user is for whoever owns the account', async () => {
    const account = await addAccount(gmb.database.pool);
    await gmb.database.pool.query(`select gmb.enqueue_sync(account_id => $1, user_id => null, sync_type => 'full')`, [
      account.id,
    ]);
    expect(
      await rowsOf(gmb.database.pool, 'select user_id from gmb.sync_queue where account_id = $1', [account.id]),
    ).toEqual([{ user_id: account.userId }]);
  });

  test.each([
    ['sync_type', { syncType: 'both' }],
    ['sync_type', { syncType: '' }],
    ['priority', { priority: 1_000_000 }],
    ['priority', { priority: -1_000_001 }],
    ['max_attempts', { maxAttempts: 0 }],
    ['max_attempts', { maxAttempts: 21 }],
    ['scheduled_at', { scheduledAt: 'infinity' }],
    ['scheduled_at', { scheduledAt: '1999-12-31T23:59:59Z' }],
    ['metadata', { metadata: ['a list'] }],
    ['metadata', { metadata: { long: 'x'.repeat(16_384) } }],
  ])('with a bad %s is refused with its name', async (column, wish) => {
    const account = await addAccount(gmb.database.pool);
    await expect(gmb.ask(account, wish)).rejects.toMatchObject({
      ...{ code: '22023', column },
      message: expect.stringContaining(column) as string,
    });
  });
});

describe('a second request while the first waits', () => {
  test('is answered with the first, and changes nothing when it asks for no more', async () => {
    const { id, account } = await gmb.add({ priority: 10 });
    expect(await gmb.ask(account, { syncType: 'incremental', priority: 5, scheduledAt: inAnHour() })).toEqual({
      ...{ id, status: 'pending', duplicate: true },
    });
    expect(await gmb.job(id)).toMatchObject({ generation: 1, priority: 10, payload: { syncType: 'full' } });
  });

  test('raises the priority, advances the date and makes incremental full, in a new life that BullMQ is given', async () => {
    const { id, account } = await gmb.add(
      { syncType: 'incremental', scheduledAt: inAnHour(), priority: -10 },
      'publish',
    );
    await gmb.ask(account, { syncType: 'full', priority: 20, scheduledAt: inAMinute() });
    const job = await gmb.job(id);
    expect(job).toMatchObject({ state: 'pending', generation: 2, priority: 20, payload: { syncType: 'full' } });
    expect(Number(job.scheduled_at) - Date.now()).toBeLessThan(2 * MINUTE);
    expect(await gmb.bridgeWork(id)).toEqual({ ready: [2], removals: [1] });
    const ready = 'select priority from outbox.ready where job_id = outbox.job_id($1)';
    expect(await rowsOf(gmb.database.pool, ready, [id])).toEqual([{ priority: 20 }]);
  });

  test('with no priority of its own has the usual one, which a batch is below', async () => {
    const { id, account } = await gmb.add({ priority: -10 });
    await gmb.ask(account);
    expect(await gmb.job(id)).toMatchObject({ priority: 0 });
  });

  test('and no date of its own makes it due now', async () => {
    const { id, account } = await gmb.add({ scheduledAt: inAnHour() });
    await gmb.ask(account);
    expect(Number((await gmb.job(id)).scheduled_at)).toBeLessThanOrEqual(Date.now() + 1_000);
  });

  test('makes incremental full without a new life when nothing else changes: the worker reads the row', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish');
    await gmb.ask(account, { syncType: 'full' });
    expect(await gmb.job(id)).toMatchObject({ state: 'published', generation: 1, payload: { syncType: 'full' } });
  });

  test('of one that waits for another attempt leaves its wait and its attempts as they are', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish', 'claim', 'retry');
    const before = await gmb.job(id);
    expect(await gmb.ask(account, { syncType: 'full' })).toEqual({ id, status: 'pending', duplicate: true });
    expect(await gmb.job(id)).toMatchObject({
      ...{ attempt: 1, generation: 1, scheduled_at: before.scheduled_at, payload: { syncType: 'full' } },
    });
    await gmb.ask(account, { priority: 20 });
    expect(await gmb.job(id)).toMatchObject({
      ...{ attempt: 1, generation: 2, scheduled_at: before.scheduled_at, priority: 20 },
    });
  });

  test('holds the row until it commits: a claim in between passes it over, and one after it reads what it became', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental', scheduledAt: inAnHour() }, 'publish');
    const client = await gmb.begin();
    await gmb.ask(account, { syncType: 'full' }, client);
    const unlocked = `select generation from outbox.jobs where id = outbox.job_id($1) for no key update skip locked`;
    expect(await rowsOf(gmb.database.pool, unlocked, [id])).toEqual([]);
    await client.query('commit');
    expect(await rowsOf(gmb.database.pool, unlocked, [id])).toEqual([{ generation: 2 }]);
  });

  test('of many at once leaves one sync, with the highest priority of all', async () => {
    const account = await addAccount(gmb.database.pool);
    const answers = await Promise.all(Array.from({ length: 20 }, (_, priority) => gmb.ask(account, { priority })));
    expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
    expect(answers.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    expect(await gmb.job(answers[0]?.id ?? '')).toMatchObject({ priority: 19 });
  });
});

test('a second request while the first runs is answered with its id, and changes nothing of it', async () => {
  const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish', 'claim');
  const before = await gmb.job(id);
  expect(await gmb.ask(account, { priority: 20 })).toEqual({ id, status: 'processing', duplicate: true });
  expect(await gmb.job(id)).toEqual(before);
});

test('a request for a sync that is about to be cancelled is done after its end, as it was asked for', async () => {
  const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish', 'claim');
  await gmb.database.pool.query(`select outbox.cancel_jobs(ids => array[outbox.job_id($1)], reason => 'r')`, [id]);
  expect(await gmb.ask(account, { syncType: 'full', priority: 20 })).toMatchObject({ id, duplicate: true });
  await gmb.database.pool.query(
    `update outbox.jobs
     set state = 'cancelled', finished_at = clock_timestamp(), holds_key = false, locked_by = null, locked_until = null
     where id = outbox.job_id($1)`,
    [id],
  );
  const open = 'select state, priority, payload from outbox.jobs where key = $1 and finished_at is null';
  expect(await rowsOf(gmb.database.pool, open, [account.id])).toMatchObject([
    { state: 'pending', priority: 20, payload: { syncType: 'full' } },
  ]);
});

test('a request that waited for a claim to commit finds the sync running', async () => {
  const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish');
  const client = await gmb.begin();
  await gmb.change(id, 'claim', client);
  const answer = gmb.ask(account);
  await waitFor(async () => {
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
    expect(await rowsOf(gmb.database.pool, waiting)).toHaveLength(1);
  });
  await client.query('commit');
  expect(await answer).toEqual({ id, status: 'processing', duplicate: true });
  expect(await gmb.job(id)).toMatchObject({ generation: 1, payload: { syncType: 'incremental' } });
});

test('after the end of a sync another one is asked for', async () => {
  const { id, account } = await gmb.add({}, 'publish', 'claim', 'completed');
  const answer = await gmb.ask(account);
  expect(answer.duplicate).toBe(false);
  expect(answer.id).not.toBe(id);
});

describe('a schedule', () => {
  test('asks for a sync of every active account that is connected, spread over its hour', async () => {
    const { pool } = gmb.database;
    const accounts = await Promise.all(Array.from({ length: 40 }, () => addAccount(pool)));
    const inactive = await addAccount(pool, { isActive: false });
    const revoked = await addAccount(pool);
    await pool.query(`update public.oauth_tokens set status = 'reconnect_needed' where account_id = $1`, [revoked.id]);
    await pool.query(`select gmb.schedule_syncs(sync_type => 'full', spread => '1 hour', priority => 3)`);

    const planned = async (ids: TestAccount[]) =>
      rowsOf(
        pool,
        `select key, priority, extract(epoch from scheduled_at - created_at)::float8 * 1000 as wait
         from outbox.jobs where key = any ($1) order by 3`,
        [ids.map(({ id }) => id)],
      );
    const jobs = await planned(accounts);
    const waits = jobs.map(({ wait }) => Number(wait));
    expect(jobs).toHaveLength(40);
    expect(jobs.every(({ priority }) => priority === 3)).toBe(true);
    expect(Math.max(...waits)).toBeLessThan(1 * HOUR);
    expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(HOUR / 2);
    expect(await planned([inactive, revoked])).toEqual([]);
  });

  test('leaves an account that has an open sync as it is', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental', priority: 20 });
    await gmb.database.pool.query(`select gmb.schedule_syncs(sync_type => 'full', spread => '0', priority => 99)`);
    const jobs = await rowsOf(gmb.database.pool, 'select priority from outbox.jobs where key = $1', [account.id]);
    expect(jobs).toEqual([{ priority: 20 }]);
    expect(await gmb.job(id)).toMatchObject({ payload: { syncType: 'incremental' } });
  });

  test('that makes no sense is refused', async () => {
    const asked = gmb.database.pool.query(`select gmb.schedule_syncs(sync_type => 'all')`);
    await expect(asked).rejects.toMatchObject({ code: '22023', column: 'sync_type' });
  });
});

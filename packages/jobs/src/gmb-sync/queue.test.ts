import { randomUUID } from 'node:crypto';
import { HOUR } from '@outbox/core';
import { waitFor } from '@outbox/testing';
import { addAccount, only, rowsOf, useGmb, type Change } from './gmb.fixture.ts';

const gmb = useGmb();

/** As the seed's users do it: with the schema in the search path. */
async function asService(sql: string, values?: unknown[]) {
  const client = await gmb.begin();
  await client.query(`set local search_path = gmb, public`);
  await client.query('set local role service_role');
  const rows = await rowsOf(client, sql, values);
  await client.query('commit');
  return rows;
}

const UNSUPPORTED = { code: '0A000', hint: expect.any(String) as string };

describe('the words of the queue', () => {
  test.each<[string, Change[], Record<string, unknown>]>([
    ['pending', [], { status: 'pending', attempts: 0, last_error: null, started_at: null, completed_at: null }],
    ['published', ['publish'], { status: 'pending', attempts: 0, started_at: null }],
    [
      'published, waiting for a retry',
      ['publish', 'claim', 'retry'],
      {
        ...{ status: 'pending', attempts: 1, last_error: 'Error: Google is down', started_at: null },
        scheduled_at: expect.any(Date) as Date,
      },
    ],
    [
      'active',
      ['publish', 'claim'],
      { status: 'processing', attempts: 1, started_at: expect.any(Date) as Date, completed_at: null },
    ],
    [
      'completed',
      ['publish', 'claim', 'completed'],
      { status: 'succeeded', last_error: null, metadata: null, completed_at: expect.any(Date) as Date },
    ],
    [
      'skipped',
      ['publish', 'claim', 'skipped'],
      { status: 'succeeded', last_error: null, metadata: { reason: 'account_inactive' } },
    ],
    [
      'failed',
      ['publish', 'claim', 'failed'],
      { status: 'failed', last_error: 'Error: Google is down', completed_at: expect.any(Date) as Date },
    ],
  ])('%s', async (_state, changes, expected) => {
    const { id, account } = await gmb.add({}, ...changes);
    expect(await gmb.shown(id)).toMatchObject({
      ...{ id, user_id: account.userId, account_id: account.id, sync_type: 'full', priority: 0, max_attempts: 3 },
      ...{ scheduled_at: null, ...expected },
    });
  });

  test('a cancelled sync is not shown', async () => {
    const { id } = await gmb.add();
    await gmb.database.pool.query(`select outbox.cancel_jobs(ids => array[outbox.job_id($1)], reason => 'r')`, [id]);
    expect(await gmb.shown(id)).toBeUndefined();
  });
});

describe('an insert', () => {
  const INSERT = `
    insert into sync_queue (user_id, account_id, sync_type, status, priority, attempts, max_attempts, metadata)
    values ($1, $2, 'full', 'pending', 10, 0, 3, '{"test": true}')
    returning *`;

  test('as the seed makes it asks for a sync, and returns the row', async () => {
    const { id, userId } = await addAccount(gmb.database.pool);
    const row = only(await asService(INSERT, [userId, id]));
    expect(row).toMatchObject({
      ...{ user_id: userId, account_id: id, sync_type: 'full', status: 'pending', priority: 10, attempts: 0 },
      ...{ max_attempts: 3, metadata: { test: true }, scheduled_at: null, created_at: expect.any(Date) as Date },
    });
    expect(await gmb.shown(String(row.id))).toEqual(row);
    expect(await gmb.bridgeWork(String(row.id))).toEqual({ ready: [1], removals: [] });
  });

  test('for an account whose sync is open returns that one', async () => {
    const { id, account } = await gmb.add({ syncType: 'incremental' }, 'publish', 'claim');
    expect(await asService(INSERT, [account.userId, account.id])).toMatchObject([{ id, status: 'processing' }]);
  });

  test('of an account of somebody else is refused, and so is one without a kind', async () => {
    const { id, userId } = await addAccount(gmb.database.pool);
    await expect(asService(INSERT, [randomUUID(), id])).rejects.toMatchObject({ code: 'OB010' });
    const blank = asService('insert into sync_queue (user_id, account_id) values ($1, $2)', [userId, id]);
    await expect(blank).rejects.toMatchObject({ code: '22023', column: 'sync_type' });
  });

  test.each([
    ['status', `'processing'`],
    ['attempts', '1'],
    ['id', 'gen_random_uuid()'],
    ['completed_at', 'now()'],
  ])('that says what %s is, which is not the asker’s to say, is refused with a hint', async (column, value) => {
    const { id, userId } = await addAccount(gmb.database.pool);
    const sql = `insert into sync_queue (user_id, account_id, sync_type, ${column}) values ($1, $2, 'full', ${value})`;
    await expect(asService(sql, [userId, id])).rejects.toMatchObject(UNSUPPORTED);
  });
});

/** The manual reset of the seed, word for word. */
const RESET = `
  UPDATE sync_queue
  SET status = 'pending', started_at = NULL, attempts = attempts - 1
  WHERE status = 'processing' AND started_at < NOW() - INTERVAL '10 minutes';`;

describe('an update to pending', () => {
  async function startedAgo(id: string, minutes: number): Promise<void> {
    await gmb.database.pool.query(
      `update outbox.jobs set started_at = now() - $2 * interval '1 minute' where id = outbox.job_id($1)`,
      [id, minutes],
    );
  }

  test.each<[string, Change[]]>([
    ['whose lease is over', ['publish', 'claim', 'away']],
    ['that a worker holds', ['publish', 'claim']],
  ])('by the reset of the seed hands a stuck sync %s back, with its attempt, and no other', async (_what, changes) => {
    const { id } = await gmb.add({}, ...changes);
    const { id: fresh } = await gmb.add({}, ...changes);
    await startedAgo(id, 11);
    await startedAgo(fresh, 9);
    const before = await gmb.job(id);

    await asService(RESET);
    expect(await gmb.shown(id)).toMatchObject({ status: 'pending', attempts: 0, started_at: null });
    expect(await gmb.job(id)).toMatchObject({ state: 'pending', generation: 2, run: before.run, locked_by: null });
    expect(await gmb.bridgeWork(id)).toEqual({ ready: [2], removals: [1] });
    expect(await gmb.attempts(id)).toMatchObject([{ attempt: 1, worker: 'worker 1', outcome: 'handed_back' }]);
    expect(await gmb.shown(fresh)).toMatchObject({ status: 'processing', attempts: 1 });
  });

  test('of a running sync spends the attempt unless it is taken off, and keeps its error and its instant', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    const later = new Date(Date.now() + 1 * HOUR);
    const sql = `update sync_queue set status = 'pending', last_error = 'timeout', scheduled_at = $2 where id = $1 returning *`;
    expect(await asService(sql, [id, later])).toMatchObject([
      { status: 'pending', attempts: 1, last_error: 'timeout', scheduled_at: later },
    ]);
    expect(await gmb.attempts(id)).toMatchObject([{ attempt: 1, outcome: 'retried', error: 'timeout' }]);
  });

  test('with attempts that were never made is refused', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    const asked = asService(`update sync_queue set status = 'pending', attempts = 5 where id = $1`, [id]);
    await expect(asked).rejects.toMatchObject(UNSUPPORTED);
  });

  test('of a running sync that was cancelled ends it', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    await gmb.database.pool.query(`select outbox.cancel_jobs(ids => array[outbox.job_id($1)], reason => 'r')`, [id]);
    await asService(`update sync_queue set status = 'pending' where id = $1`, [id]);
    expect(await gmb.job(id)).toMatchObject({ state: 'cancelled', reason: 'r', holds_key: false });
  });

  test('of a failed sync gives it all its attempts again', async () => {
    const { id, account } = await gmb.add({}, 'publish', 'claim', 'failed');
    const sql = `update sync_queue set status = 'pending', attempts = 0, last_error = null where id = $1 returning *`;
    expect(await asService(sql, [id])).toMatchObject([{ status: 'pending', attempts: 0, completed_at: null }]);
    expect(await gmb.bridgeWork(id)).toEqual({ ready: [2], removals: [1] });
    expect(await gmb.ask(account)).toMatchObject({ id, duplicate: true });
  });

  test('of a failed sync with an instant is for then', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim', 'failed');
    const later = new Date(Date.now() + 1 * HOUR);
    await asService(`update sync_queue set status = 'pending', scheduled_at = $2 where id = $1`, [id, later]);
    expect(await gmb.shown(id)).toMatchObject({ status: 'pending', scheduled_at: later });
  });

  test('of a failed sync whose account has another open one is refused, naming it', async () => {
    const { id, account } = await gmb.add({}, 'publish', 'claim', 'failed');
    const other = await gmb.ask(account);
    const { rows } = await gmb.database.pool.query<{ id: string }>('select outbox.job_id($1) as id', [other.id]);
    const asked = asService(`update sync_queue set status = 'pending' where id = $1`, [id]);
    await expect(asked).rejects.toMatchObject({ code: 'OB005', detail: rows[0]?.id });
  });

  test('of a sync that has ended meanwhile leaves it as it is, and does not count it', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    const worker = await gmb.begin();
    await gmb.change(id, 'completed', worker);
    const asked = asService(`update sync_queue set status = 'pending' where id = $1 returning id`, [id]);
    await waitFor(async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
      expect(await rowsOf(gmb.database.pool, waiting)).toHaveLength(1);
    });
    await worker.query('commit');
    expect(await asked).toEqual([]);
    expect(await gmb.shown(id)).toMatchObject({ status: 'succeeded' });
  });
});

describe('any other update', () => {
  test.each<[string, Change[], string]>([
    ['of a succeeded sync to pending', ['publish', 'claim', 'completed'], `status = 'pending'`],
    ['of a pending sync to succeeded', [], `status = 'succeeded'`],
    ['of a pending sync to processing', ['publish'], `status = 'processing'`],
    ['of a failed sync to succeeded', ['publish', 'claim', 'failed'], `status = 'succeeded'`],
    ["of a worker's sync to succeeded", ['publish', 'claim'], `status = 'succeeded'`],
    ["of a worker's sync to failed", ['publish', 'claim'], `status = 'failed'`],
    ['of a pending sync to another instant', [], `scheduled_at = now()`],
    ['of the account', [], 'account_id = gen_random_uuid()'],
    ['of the kind', [], `sync_type = 'incremental'`],
    ['of the priority', [], 'priority = 20'],
    ['to a word nobody knows', [], `status = 'done'`],
  ])('%s is refused with a hint, and changes nothing', async (_what, changes, assignment) => {
    const { id } = await gmb.add({}, ...changes);
    const before = await gmb.job(id);
    const asked = asService(`update sync_queue set ${assignment} where id = $1`, [id]);
    await expect(asked).rejects.toMatchObject(UNSUPPORTED);
    expect(await gmb.job(id)).toEqual(before);
  });

  test('that changes nothing is no error', async () => {
    const { id } = await gmb.add();
    expect(await asService(`update sync_queue set status = status where id = $1 returning id`, [id])).toEqual([{ id }]);
    expect(await gmb.job(id)).toMatchObject({ generation: 1 });
  });
});

describe('a delete', () => {
  const remove = (id: string) => asService('delete from sync_queue where id = $1 returning id', [id]);

  test.each<[string, Change[]]>([
    ['pending', []],
    ['published', ['publish']],
    ['waiting for a retry', ['publish', 'claim', 'retry']],
  ])('of a %s sync cancels it, and the bridge takes it out of BullMQ', async (_state, changes) => {
    const { id, account } = await gmb.add({}, ...changes);
    expect(await remove(id)).toEqual([{ id }]);
    expect(await gmb.job(id)).toMatchObject({ state: 'cancelled', reason: 'deleted' });
    expect((await gmb.bridgeWork(id)).removals).toEqual([1]);
    expect(await gmb.shown(id)).toBeUndefined();
    expect((await gmb.ask(account)).duplicate).toBe(false);
  });

  test('of a running sync asks its worker to stop', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    await remove(id);
    expect(await gmb.job(id)).toMatchObject({ state: 'active', cancel_requested_at: expect.any(Date) as Date });
  });

  test('of an ended sync takes it out of the history', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim', 'completed');
    await gmb.database.pool.query(
      `insert into outbox.attempts (job_id, run, attempt, started_at, outcome)
       values (outbox.job_id($1), 1, 1, now(), 'completed')`,
      [id],
    );
    expect(await remove(id)).toEqual([{ id }]);
    await expect(gmb.job(id)).rejects.toThrow('0 rows');
    expect(await gmb.attempts(id)).toEqual([]);
    expect((await gmb.bridgeWork(id)).removals).toEqual([1]);
  });
});

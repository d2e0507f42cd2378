import { randomUUID } from 'node:crypto';
import { enqueue, type PoolClient } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';

const JOB = 'reminder_24h';

let database: TestDatabase;
const clients: PoolClient[] = [];

beforeAll(async () => void (database = await createTestDatabase()));
afterEach(async () => {
  for (const client of clients.splice(0)) {
    await client.query('rollback');
    client.release();
  }
});
afterAll(() => database.drop());

/** A row of its own key in the state that is asked for. */
async function addRow(state: 'pending' | 'published' = 'published'): Promise<{ id: string; key: string }> {
  const key = randomUUID();
  const { id } = await enqueue(database.pool, JOB, { key, payload: {} });
  await database.pool.query('update outbox.jobs set state = $2 where id = $1', [id, state]);
  return { id, key };
}

async function begin(): Promise<PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  await client.query('begin');
  return client;
}

async function cancel(key: string): Promise<number> {
  const { rows } = await database.pool.query<{ cancelled: number }>(
    "select outbox.cancel(name => $1, key => $2, reason => 'test')::int as cancelled",
    [JOB, key],
  );
  return rows[0]?.cancelled ?? 0;
}

async function readRow(id: string): Promise<unknown> {
  const { rows } = await database.pool.query(
    /* sql */ `
    select
      j.state, j.cancel_requested_at is not null as asked, j.finished_at is not null as ended,
      exists (select from outbox.removals r where r.job_id = j.id) as removed
    from outbox.jobs j
    where j.id = $1`,
    [id],
  );
  return rows[0];
}

/** As a worker's claim and finish do it: the row is locked, then changed. */
const LOCK = /* sql */ `
  select id from outbox.jobs where id = $1 for no key update`;

const CLAIM = /* sql */ `
  update outbox.jobs
  set state = 'active', run = outbox.new_run(), attempt = 1, holds_key = false, locked_by = 'w',
    locked_until = now() + interval '1 minute'
  where id = $1`;

const RETRY = /* sql */ `
  update outbox.jobs set state = 'published', locked_by = null, locked_until = null where id = $1`;

const END = /* sql */ `
  update outbox.jobs
  set state = 'completed', finished_at = now(), holds_key = false, locked_by = null, locked_until = null
  where id = $1`;

const START_CALL = /* sql */ `
  insert into outbox.effects (key, job_id, run, provider, state, deadline_at)
  values ('test:' || $1::bigint, $1, 1, 'test', 'started', now())`;

async function isWaitedFor(): Promise<void> {
  const { rows } = await database.pool.query(
    "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%outbox.cancel%'",
  );
  expect(rows).toHaveLength(1);
}

describe('a cancel that meets a worker', () => {
  test.each(['pending', 'published'] as const)(
    'claiming the %s row asks the run to end, whatever the row was when the cancel began',
    async (state) => {
      const { id, key } = await addRow(state);
      const worker = await begin();
      await worker.query(LOCK, [id]);
      const cancelled = cancel(key);
      await waitFor(isWaitedFor);
      await worker.query(CLAIM, [id]);
      await worker.query('commit');
      expect(await cancelled).toBe(1);
      expect(await readRow(id)).toEqual({ state: 'active', asked: true, ended: false, removed: false });
    },
  );

  test('putting the row off ends it', async () => {
    const { id, key } = await addRow();
    await database.pool.query(CLAIM, [id]);
    const worker = await begin();
    await worker.query(LOCK, [id]);
    const cancelled = cancel(key);
    await waitFor(isWaitedFor);
    await worker.query(RETRY, [id]);
    await worker.query('commit');
    expect(await cancelled).toBe(1);
    expect(await readRow(id)).toEqual({ state: 'cancelled', asked: true, ended: true, removed: true });
  });

  test('ending the row leaves it as it ended', async () => {
    const { id, key } = await addRow();
    await database.pool.query(CLAIM, [id]);
    const worker = await begin();
    await worker.query(LOCK, [id]);
    const cancelled = cancel(key);
    await waitFor(isWaitedFor);
    await worker.query(END, [id]);
    await worker.query('commit');
    expect(await cancelled).toBe(0);
    expect(await readRow(id)).toEqual({ state: 'completed', asked: false, ended: true, removed: false });
  });
});

test('a cancel that waits for a run to end also ends the one that follows it', async () => {
  const { id, key } = await addRow();
  await database.pool.query(CLAIM, [id]);
  await database.pool.query('update outbox.jobs set holds_key = true, rerun = true where id = $1', [id]);
  const worker = await begin();
  await worker.query(LOCK, [id]);
  const cancelled = cancel(key);
  await waitFor(isWaitedFor);
  await worker.query(END, [id]);
  await worker.query('commit');
  expect(await cancelled).toBe(1);
  const { rows } = await database.pool.query('select state from outbox.jobs where key = $1 order by id', [key]);
  expect(rows).toEqual([{ state: 'completed' }, { state: 'cancelled' }]);
});

describe('a waiting row with a call that may have been carried out', () => {
  test('is not ended by a cancel: its next run has to find out, and is asked to do no more', async () => {
    const { id, key } = await addRow();
    await database.pool.query(START_CALL, [id]);
    expect(await cancel(key)).toBe(1);
    expect(await readRow(id)).toEqual({ state: 'published', asked: true, ended: false, removed: false });
  });

  test('is ended when the call is settled', async () => {
    const { id, key } = await addRow();
    await database.pool.query(START_CALL, [id]);
    await database.pool.query(
      "update outbox.effects set state = 'confirmed', reference = 'r', settled_at = now() where job_id = $1",
      [id],
    );
    expect(await cancel(key)).toBe(1);
    expect(await readRow(id)).toMatchObject({ state: 'cancelled', ended: true, removed: true });
  });
});

describe('a cancel of many', () => {
  const CANCEL = `select outbox.cancel_jobs(ids => $1, reason => $2)::int as cancelled`;

  async function cancelJobs(ids: string[], reason = 'test'): Promise<number> {
    const { rows } = await database.pool.query<{ cancelled: number }>(CANCEL, [ids, reason]);
    return rows[0]?.cancelled ?? 0;
  }

  test('by several at once, in whatever order they name the rows, deadlocks nobody and counts each row once', async () => {
    const added = await Promise.all(Array.from({ length: 40 }, () => addRow()));
    const ids = added.map(({ id }) => id);
    const keys = added.map(({ key }) => key);
    const orders = [ids, [...ids].reverse(), [...ids.slice(20), ...ids.slice(0, 20)]];
    const byKeys = `select outbox.cancel_many(names => $1, keys => $2, reason => 'test')::int as cancelled`;
    const counts = await Promise.all([
      ...[...orders, ...orders].map((order) => cancelJobs(order)),
      ...[keys, [...keys].reverse()].map(async (order) => {
        const { rows } = await database.pool.query<{ cancelled: number }>(byKeys, [[JOB], order]);
        return rows[0]?.cancelled ?? 0;
      }),
    ]);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(40);
    for (const id of ids) expect(await readRow(id)).toMatchObject({ state: 'cancelled', removed: true });
  });

  test('locks rows in the order of their ids, also when they are named in another: two cancels wait, and end', async () => {
    const [low, high] = [await addRow(), await addRow()];
    const [first, second] = [await begin(), await begin()];
    await first.query(LOCK, [low.id]);
    const waiting = second.query(CANCEL, [[high.id, low.id], 'second']);
    await waitFor(isWaitedFor);
    // Had the second begun with the higher row, this would be a deadlock.
    await first.query(CANCEL, [[high.id], 'first']);
    await first.query('commit');
    expect((await waiting).rows).toEqual([{ cancelled: 1 }]);
    await second.query('commit');
  });

  test('sees the call that a row began while the cancel waited for another row', async () => {
    const [low, high] = [await addRow(), await addRow()];
    const other = await begin();
    await other.query(LOCK, [low.id]);
    const cancelled = cancelJobs([low.id, high.id]);
    await waitFor(isWaitedFor);
    await database.pool.query(CLAIM, [high.id]);
    await database.pool.query(START_CALL, [high.id]);
    await database.pool.query(RETRY, [high.id]);
    await other.query('rollback');
    expect(await cancelled).toBe(2);
    expect(await readRow(low.id)).toMatchObject({ state: 'cancelled', ended: true });
    expect(await readRow(high.id)).toMatchObject({ state: 'published', asked: true, ended: false });
  });

  test('leaves what has ended as it ended, and of what is cancelled already the first reason', async () => {
    const [ended, running] = [await addRow(), await addRow()];
    await database.pool.query(CLAIM, [ended.id]);
    await database.pool.query(END, [ended.id]);
    await database.pool.query(CLAIM, [running.id]);
    expect(await cancelJobs([ended.id, running.id], 'first')).toBe(1);
    await database.pool.query('update outbox.jobs set rerun = true where id = $1', [running.id]);
    expect(await cancelJobs([ended.id, running.id], 'second')).toBe(0);
    const { rows } = await database.pool.query('select state, reason, rerun from outbox.jobs where id = $1', [
      running.id,
    ]);
    expect(rows).toEqual([{ state: 'active', reason: 'first', rerun: false }]);
    expect(await readRow(ended.id)).toMatchObject({ state: 'completed' });
  });

  test('of nothing cancels nothing', async () => {
    expect(await cancelJobs([])).toBe(0);
  });
});

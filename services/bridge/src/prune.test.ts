import { createPool, type Pool } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { addRow, addRows } from './bridge.fixture.ts';
import { pruneBatch } from './prune.ts';

let database: TestDatabase;
/** What the bridge may do, and no more. */
let bridge: Pool;
beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_bridge', applicationName: 'prune', max: 1 };
  bridge = createPool({ ...options, onError: () => undefined });
});
afterEach(async () => {
  await bridge.end();
  await database.drop();
});

/** Ends a row `ago` (an interval) and gives it an attempt. */
async function finish(id: string, state: string, ago: string): Promise<void> {
  await database.pool.query(
    `update outbox.jobs set state = $2, finished_at = now() - $3::interval, holds_key = false where id = $1`,
    [id, state, ago],
  );
  await database.pool.query(
    `insert into outbox.attempts (job_id, run, attempt, started_at, outcome) values ($1, $1, 1, now(), 'completed')`,
    [id],
  );
}

async function left(): Promise<string[]> {
  const { rows } = await database.pool.query<{ id: string }>('select id from outbox.jobs order by id');
  return rows.map(({ id }) => id);
}

it('finished rows go when their retention is over, failed ones later, open ones never', async () => {
  const { pool } = database;
  const ids = await addRows(pool, 6);
  const [old = '', young = '', oldFailed = '', veryOldFailed = '', oldSkipped = '', open = ''] = ids;
  await finish(old, 'completed', '3 days 1 minute');
  await finish(young, 'completed', '2 days 23 hours');
  await finish(oldFailed, 'failed', '29 days');
  await finish(veryOldFailed, 'failed', '31 days');
  await finish(oldSkipped, 'skipped', '4 days');
  await pool.query(`update outbox.jobs set created_at = now() - interval '90 days' where id = $1`, [open]);

  expect(await pruneBatch(bridge)).toBe(3);
  expect(await left()).toEqual([young, oldFailed, open]);
  const { rows } = await pool.query('select job_id from outbox.attempts order by job_id');
  expect(rows.map(({ job_id }: { job_id: string }) => job_id)).toEqual([young, oldFailed]);
});

it('an operator may keep rows longer or shorter, but never shorter than BullMQ keeps their jobs', async () => {
  const { pool } = database;
  const [hours25 = '', hours24 = ''] = await addRows(pool, 2);
  await finish(hours25, 'completed', '25 hours 1 minute');
  await finish(hours24, 'completed', '24 hours');
  await pool.query(`update outbox.job_types set operator_retention = '1 hour'`);
  expect(await pruneBatch(bridge)).toBe(1);
  expect(await left()).toEqual([hours24]);
});

it('takes small batches, and skips a row that somebody has locked', async () => {
  const { pool } = database;
  const ids = await addRows(pool, 600);
  await pool.query(`update outbox.jobs set state = 'completed', finished_at = now() - interval '9 days'`);
  const holder = await pool.connect();
  await holder.query('begin');
  await holder.query('select from outbox.jobs where id = $1 for no key update', [ids[0]]);
  expect(await pruneBatch(bridge)).toBe(500);
  expect(await pruneBatch(bridge)).toBe(99);
  await holder.query('rollback');
  holder.release();
  expect(await left()).toEqual([ids[0]]);
});

it('the effect ledger outlives the jobs by far, and what nobody can tell stays', async () => {
  const { pool } = database;
  const id = await addRow(pool);
  await finish(id, 'completed', '9 days');
  await pool.query(
    `insert into outbox.effects (key, job_id, run, provider, state, reference, deadline_at, settled_at)
     select state || days, $1, 1, 'twilio', state, 'SM1', now(), now() - days * interval '1 day'
     from unnest(array['confirmed', 'rejected', 'unknown']) state, unnest(array[399, 401]) days`,
    [id],
  );
  await pruneBatch(bridge);
  const { rows } = await pool.query<{ key: string }>('select key from outbox.effects order by key');
  expect(rows.map(({ key }) => key)).toEqual(['confirmed399', 'rejected399', 'unknown399', 'unknown401']);
});

import { SQLSTATE, type Queryable } from '@outbox/core';
import { capture, errorsOf, jobsOf, type Captured } from './capture.fixture.ts';
import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const query = (sql: string, values?: unknown[], db: Queryable = rows.database.pool) => rowsOf(db, sql, values);
const jobs = (captured: Captured) => jobsOf(captured, rows.database.pool);
const errors = (captured: Captured) => errorsOf(captured, rows.database.pool);

function insert({ table }: Captured, count: number, db: Queryable = rows.database.pool) {
  return query(`insert into ${table} (id, email) select n, 'e' || n from generate_series(1, $1::int) n`, [count], db);
}

describe('a row whose expression fails', () => {
  const rule = { payload: `jsonb_build_object('id', 1 / (row.id - 2))`, cancel_when: `row.email::int = 0` };

  test('is recorded under its key; the others get their jobs, and the write commits', async () => {
    const captured = await capture(rows, { payload: rule.payload });
    await insert(captured, 3);
    expect(await jobs(captured)).toBe('1 pending, 3 pending');
    expect(await errors(captured)).toEqual([
      { table_name: captured.table, key: '2', sqlstate: '22012', message: 'division by zero' },
    ]);
    expect(await query(`select count(*)::int as n from ${captured.table}`)).toEqual([{ n: 3 }]);
  });

  test('of an update is recorded; the others are enqueued or cancelled', async () => {
    const captured = await capture(rows, { cancel_when: rule.cancel_when, events: ['update'] });
    for (const key of ['1', '3']) await rows.add(captured.job, { key });
    await insert(captured, 4);
    await query(`update ${captured.table} set email = (array['0', 'none', '0', '7'])[id]`);
    expect(await jobs(captured)).toBe('1 cancelled, 3 cancelled, 4 pending');
    expect(await errors(captured)).toMatchObject([{ key: '2', sqlstate: '22P02' }]);
  });

  test('in its key itself is recorded without one', async () => {
    const captured = await capture(rows, { key: `(1 / (row.id - 2))::text` });
    await insert(captured, 2);
    await query(`delete from ${captured.table}`);
    expect(await jobs(captured)).toBe('-1 cancelled');
    expect(await errors(captured)).toMatchObject([
      { key: null, sqlstate: '22012' },
      { key: null, sqlstate: '22012' },
    ]);
  });
});

test('a row whose job is refused does not take the others of its statement with it', async () => {
  const captured = await capture(rows);
  await query(`alter table outbox.jobs add constraint not_this_one check (name <> '${captured.job}' or key <> '2')`);
  await insert(captured, 3).finally(() => query('alter table outbox.jobs drop constraint not_this_one'));
  expect(await jobs(captured)).toBe('1 pending, 3 pending');
  expect(await errors(captured)).toMatchObject([{ key: '2', sqlstate: '23514' }]);
});

describe('a job whose row another transaction holds', () => {
  /** Keeps the endless wait for a lock red soon; a capture waits far less. */
  async function business(): ReturnType<typeof rows.begin> {
    const client = await rows.begin();
    await client.query(`set local statement_timeout = '15s'`);
    return client;
  }

  test('of an insert is recorded after a moment, and the rest of the statement is enqueued', async () => {
    const captured = await capture(rows);
    const holder = await rows.begin();
    await query('select outbox.enqueue($1, key => $2)', [captured.job, '2'], holder);
    const client = await business();
    await insert(captured, 3, client);
    await client.query('commit');
    await holder.query('rollback');
    expect(await jobs(captured)).toBe('1 pending, 3 pending');
    expect(await errors(captured)).toMatchObject([{ key: '2', sqlstate: SQLSTATE.lockNotAvailable }]);
  });

  test('of a delete is recorded after a moment, and the rest of the statement is cancelled', async () => {
    const captured = await capture(rows);
    await insert(captured, 3);
    const holder = await rows.begin();
    await query(`select from outbox.jobs where name = $1 and key = '2' for update`, [captured.job], holder);
    const client = await business();
    await query(`delete from ${captured.table}`, [], client);
    await client.query('commit');
    await holder.query('rollback');
    expect(await jobs(captured)).toBe('1 cancelled, 2 pending, 3 cancelled');
    expect(await errors(captured)).toMatchObject([{ key: '2', sqlstate: SQLSTATE.lockNotAvailable }]);
  });

  test('is waited for 200 ms, and the setting of the business transaction is its own again afterwards', async () => {
    const captured = await capture(rows, { payload: `jsonb_build_object('id', 1 / (row.id - 1))` });
    const functions = `
      select p.proconfig as settings from pg_trigger t join pg_proc p on p.oid = t.tgfoid
      where t.tgrelid = $1::regclass and not t.tgisinternal`;
    const settings = ['search_path=pg_catalog, pg_temp', 'lock_timeout=200ms'];
    expect(await query(functions, [captured.table])).toEqual([{ settings }, { settings }, { settings }]);
    const client = await business();
    await client.query(`set local lock_timeout = '7s'`);
    await insert(captured, 2, client);
    expect(await query('show lock_timeout', [], client)).toEqual([{ lock_timeout: '7s' }]);
  });

  // 200 rows of 200 ms each would be 40 s.
  test('of many rows is not waited for many times: once a second has gone, each is only tried', async () => {
    const captured = await capture(rows);
    await insert(captured, 200);
    const holder = await rows.begin();
    await query('select from outbox.jobs where name = $1 for update', [captured.job], holder);
    const client = await business();
    await query(`delete from ${captured.table}`, [], client);
    await client.query('commit');
    await holder.query('rollback');
    expect(await errors(captured)).toHaveLength(200);
  });
});

describe('a capture that fails as a whole', () => {
  test.each([
    ['its job type is gone', ({ job }: Captured) => `delete from outbox.job_types where name = '${job}'`],
    ['its row looks different now', ({ table }: Captured) => `alter table ${table} drop column id cascade`],
    [
      'a function of ours is gone',
      () => 'drop function outbox.enqueue_captured(text, outbox.wanted_job[], text[], text, boolean)',
    ],
  ])('because %s lets the write through, and is recorded', async (_why, damage) => {
    const captured = await capture(rows);
    await insert(captured, 2);
    const client = await rows.begin();
    await client.query(damage(captured));
    await query(`update ${captured.table} set email = 'new'`, [], client);
    await query(`delete from ${captured.table}`, [], client);
    expect((await errorsOf(captured, client)).length).toBeGreaterThan(0);
  });

  test('because the setting outbox.current_job is no job lets the write through, and is recorded', async () => {
    const captured = await capture(rows);
    const client = await rows.begin();
    await client.query(`select set_config('outbox.current_job', 'nonsense', true)`);
    await insert(captured, 1, client);
    await client.query('commit');
    expect(await errors(captured)).toMatchObject([{ key: '1', sqlstate: '22P02' }]);
  });

  test('a function that an earlier version generated captures as before', async () => {
    const captured = await capture(rows);
    const call = (wanted: string, unwanted: string) =>
      query(
        `select from outbox.write_captured(
           job_name => '${captured.job}', reason => 'row_changed', reschedule => false, wanted => ${wanted}, unwanted => ${unwanted}
         )`,
      );
    await call(
      `jsonb_build_array(jsonb_build_object('key', '1', 'payload', null), jsonb_build_object('key', '2'))`,
      'null',
    );
    await call('null', `array['1']`);
    expect(await jobs(captured)).toBe('1 cancelled, 2 pending');
  });

  test('a table that was renamed, got a column or lost one the rule does not name is captured as before', async () => {
    const captured = await capture(rows);
    await insert(captured, 1);
    const renamed = `${captured.table}_2`;
    await query(`alter table ${captured.table} rename to ${renamed.replace('public.', '')}`);
    await query(`alter table ${renamed} add column more text default 'x'`);
    await query(`alter table ${renamed} drop column note`);
    await query(`insert into ${renamed} (id) values (2)`);
    await query(`delete from ${renamed} where id = 1`);
    await query(`update ${renamed} set more = 'y'`);
    expect(await errors(captured)).toEqual([]);
    expect(await jobs(captured)).toBe('1 cancelled, 2 pending');
  });
});

test('a write of somebody who may write the table and nothing of ours is captured', async () => {
  const captured = await capture(rows);
  const client = await rows.begin();
  await client.query(`grant select, insert, update, delete on ${captured.table} to anon`);
  await client.query('set local role anon');
  await insert(captured, 2, client);
  await query(`update ${captured.table} set email = 'new'`, [], client);
  await query(`delete from ${captured.table} where id = 1`, [], client);
  await client.query('reset role; commit');
  expect(await errors(captured)).toEqual([]);
  expect(await jobs(captured)).toBe('1 cancelled, 2 pending');
});

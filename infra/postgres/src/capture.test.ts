import type { Queryable } from '@outbox/core';
import { capture, jobsOf, type Captured } from './capture.fixture.ts';
import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const query = (sql: string, values?: unknown[], db: Queryable = rows.database.pool) => rowsOf(db, sql, values);
const jobs = (captured: Captured, db: Queryable = rows.database.pool) => jobsOf(captured, db);

/** Things 1 to `count`, by one statement. */
async function insert({ table }: Captured, count: number, db: Queryable = rows.database.pool): Promise<void> {
  await db.query(`insert into ${table} (id, email) select n, 'e' || n from generate_series(1, $1::int) n`, [count]);
}

/** Takes all jobs there are to their end, so that what comes next is new. */
async function finishAll({ job }: Captured): Promise<void> {
  await query(
    `update outbox.jobs set state = 'completed', finished_at = now(), holds_key = false, admitted = false
     where name = $1 and finished_at is null`,
    [job],
  );
}

describe('an insert', () => {
  test('of several rows by one statement enqueues one job each, with what the expressions say of the row', async () => {
    const captured = await capture(rows, {
      payload: `jsonb_build_object('id', row.id, 'email', row.email)`,
      owner_id: 'row.owner_id',
      serial_key: `'s' || row.id`,
      priority: 'row.id + 10',
    });
    await query(
      `insert into ${captured.table} (id, email, owner_id)
       select n, 'e' || n, ('6f757462-0000-8000-8000-00000000000' || n)::uuid from generate_series(1, 2) n`,
    );
    const found = 'select key, payload, owner_id, serial_key, priority from outbox.jobs where name = $1 order by key';
    const owner = '6f757462-0000-8000-8000-00000000000';
    expect(await query(found, [captured.job])).toEqual([
      { key: '1', payload: { id: 1, email: 'e1' }, owner_id: `${owner}1`, serial_key: 's1', priority: 11 },
      { key: '2', payload: { id: 2, email: 'e2' }, owner_id: `${owner}2`, serial_key: 's2', priority: 12 },
    ]);
  });

  test.each(['null', `'null'`])('with a payload of %s enqueues a job with an empty one', async (payload) => {
    const captured = await capture(rows, { payload });
    await insert(captured, 1);
    const found = 'select payload from outbox.jobs where name = $1';
    expect(await query(found, [captured.job])).toEqual([{ payload: {} }]);
  });

  test('enqueues where "when" holds, neither where it is false nor where it is null', async () => {
    const captured = await capture(rows, { when: `row.email <> 'e2'` });
    await query(`insert into ${captured.table} (id, email) values (1, 'e1'), (2, 'e2'), (3, null)`);
    expect(await jobs(captured)).toBe('1 pending');
  });

  test('of a row that would cancel enqueues nothing, and cancels nothing', async () => {
    const captured = await capture(rows, { key: `'1'`, cancel_when: `row.status = 'off'` });
    await query(`insert into ${captured.table} (id, status) values (1, 'on')`);
    await query(`insert into ${captured.table} (id, status) values (2, 'off')`);
    expect(await jobs(captured)).toBe('1 pending');
  });

  test.each([
    ['nothing', {}, `now()`],
    ['a delay', { delay: `interval '5 minutes'` }, `now() + interval '5 minutes'`],
    ['an instant', { scheduled_at: 'row.due_at' }, `'2031-02-03 04:05:06Z'`],
  ])('with %s said is due accordingly', async (_what, rule, due) => {
    const captured = await capture(rows, rule);
    const client = await rows.begin();
    await query(`insert into ${captured.table} (id, due_at) values (1, '2031-02-03 04:05:06Z')`, [], client);
    const asked = `select scheduled_at = (${due})::timestamptz as "onTime" from outbox.jobs where name = $1`;
    expect(await query(asked, [captured.job], client)).toEqual([{ onTime: true }]);
  });

  test('that is rolled back leaves no job', async () => {
    const captured = await capture(rows);
    const client = await rows.begin();
    await insert(captured, 1, client);
    expect(await jobs(captured, client)).toBe('1 pending');
    await client.query('rollback');
    expect(await jobs(captured)).toBe('');
  });

  test('without a key enqueues a job that is never a duplicate', async () => {
    const captured = await capture(rows, { key: null, events: ['insert'] });
    await insert(captured, 2);
    expect(await rows.of(captured.job)).toMatchObject([{ key: null }, { key: null }]);
  });

  test('or update, by one statement, captures both', async () => {
    const captured = await capture(rows);
    await insert(captured, 1);
    await finishAll(captured);
    await query(
      `insert into ${captured.table} (id, email) values (1, 'new'), (2, 'new')
       on conflict (id) do update set email = excluded.email`,
    );
    expect(await jobs(captured)).toBe('1 completed, 1 pending, 2 pending');
  });

  test('of 10,000 rows is written by a few statements, not by one for each row', async () => {
    const captured = await capture(rows);
    const client = await rows.begin();
    await client.query('set local track_functions = pl');
    await insert(captured, 10_000, client);
    const calls = `select funcname, calls::int from pg_stat_xact_user_functions
      where schemaname = 'outbox' and calls > 1 order by 1`;
    expect(await query(calls, [], client)).toEqual([]);
    const count = 'select count(*)::int as n from outbox.jobs where name = $1';
    expect(await query(count, [captured.job], client)).toEqual([{ n: 10_000 }]);
  });
});

describe('an update', () => {
  /** Three things whose first jobs are over. */
  async function three(rule: Parameters<typeof capture>[1] = {}): Promise<Captured> {
    const captured = await capture(rows, rule);
    await insert(captured, 3);
    await finishAll(captured);
    return captured;
  }

  const DONE = '1 completed, 2 completed, 3 completed';

  test('enqueues one job for each row that changed', async () => {
    const captured = await three();
    await query(`update ${captured.table} set email = case when id = 2 then email else 'new' end`);
    expect(await jobs(captured)).toBe('1 completed, 1 pending, 2 completed, 3 completed, 3 pending');
  });

  test('that sets what was there already enqueues nothing', async () => {
    const captured = await three();
    await query(`update ${captured.table} set email = email, status = 'on', note = null`);
    expect(await jobs(captured)).toBe(DONE);
  });

  test('of columns that are not listed enqueues nothing, and of a listed one something', async () => {
    const captured = await three({ columns: ['email', 'note'] });
    await query(`update ${captured.table} set status = 'off'`);
    expect(await jobs(captured)).toBe(DONE);
    await query(`update ${captured.table} set note = '1' where id = 1`);
    expect(await jobs(captured)).toBe(`1 completed, 1 pending, 2 completed, 3 completed`);
  });

  test.each([
    ['to null', `email = null`],
    ['in its case only', `email = upper(email)`],
    ['of a type without equality', `note = '{"a": 1}'`],
  ])('%s is a change', async (_what, change) => {
    const captured = await three({ columns: ['email', 'note'] });
    await query(`update ${captured.table} set ${change} where id = 1`);
    expect(await jobs(captured)).toContain('1 pending');
  });

  test('cancels the open jobs of rows where cancel_when holds, with the reason, and enqueues the others', async () => {
    const captured = await capture(rows, { cancel_when: `row.status = 'off'`, reason: 'thing_is_off' });
    await insert(captured, 3);
    await query(`update ${captured.table} set status = case when id = 2 then 'off' else 'other' end`);
    expect(await jobs(captured)).toBe('1 pending, 2 cancelled, 3 pending');
    const reasons = `select reason from outbox.jobs where name = $1 and state = 'cancelled'`;
    expect(await query(reasons, [captured.job])).toEqual([{ reason: 'thing_is_off' }]);
  });

  test('asks the running job to stop where cancel_when holds', async () => {
    const captured = await capture(rows, { cancel_when: `row.status = 'off'` });
    const { id } = await rows.add(captured.job, { key: '1' }, 'claim');
    await query(`insert into ${captured.table} (id, status) values (1, 'starting')`);
    await query(`update ${captured.table} set status = 'off'`);
    expect(await rows.read(id)).toMatchObject({
      state: 'active',
      cancel_requested_at: expect.any(Date) as Date,
      rerun: false,
    });
  });

  test('while the job of the row runs has it run once more', async () => {
    const captured = await capture(rows);
    const { id } = await rows.add(captured.job, { key: '1' }, 'claim');
    await insert(captured, 1);
    expect(await rows.read(id)).toMatchObject({ state: 'active', rerun: true });
  });

  test('several times before the job runs is one job', async () => {
    const captured = await capture(rows);
    await insert(captured, 1);
    for (const email of ['a', 'b', 'c']) await query(`update ${captured.table} set email = $1`, [email]);
    expect(await jobs(captured)).toBe('1 pending');
  });

  test('of a primary key is a delete and an insert', async () => {
    const captured = await capture(rows, { columns: ['email'] });
    await insert(captured, 2);
    await query(`update ${captured.table} set id = 9 where id = 2`);
    expect(await jobs(captured)).toBe('1 pending, 2 cancelled, 9 pending');
  });

  test('that swaps primary keys is a change of both', async () => {
    const captured = await three({ columns: ['email'] });
    await query(`alter table ${captured.table} drop constraint ${captured.table.split('.')[1]}_pkey`);
    await query(`alter table ${captured.table} add primary key (id) deferrable`);
    await query(`update ${captured.table} set id = 3 - id where id < 3`);
    expect(await jobs(captured)).toBe('1 completed, 1 pending, 2 completed, 2 pending, 3 completed');
  });

  test.each([
    [['update'], '1 completed, 2 pending'],
    [['insert', 'update'], '1 completed, 2 pending, 9 pending'],
    [['update', 'delete'], '1 completed, 2 cancelled'],
  ])('of a primary key under events %j is what those events say', async (events, left) => {
    const captured = await capture(rows, { events });
    await query(`insert into ${captured.table} (id) values (2)`);
    await rows.add(captured.job, { key: '1' }, 'claim', 'completed');
    await rows.add(captured.job, { key: '2' });
    await query(`update ${captured.table} set id = 9`);
    expect(await jobs(captured)).toBe(left);
  });

  // PostgreSQL keeps the plan for the session: a nested loop, fine for this row, would do 100,000,000 comparisons for 10,000.
  test('of a single row is planned so that one of 10,000 rows later in the session is not joined row by row', async () => {
    const captured = await three({ cancel_when: `row.status = 'off'` });
    const client = await rows.begin();
    const plans: string[] = [];
    client.on('notice', ({ detail }) => plans.push(detail ?? ''));
    await client.query('set local debug_print_plan = on; set local client_min_messages = log');
    await query(`update ${captured.table} set email = 'x' where id = 1`, [], client);
    const joins = plans.filter((plan) => plan.includes('before_update'));
    expect(joins).toEqual([expect.stringMatching(/HASHJOIN|MERGEJOIN/)]);
    expect(joins[0]).not.toContain('NESTLOOP');
  });
});

describe('a delete', () => {
  test('of several rows by one statement cancels the open job of each, running or not', async () => {
    const captured = await capture(rows);
    await insert(captured, 3);
    const [, , third] = await rows.of(captured.job);
    await rows.change(String(third?.id), 'claim');
    await query(`delete from ${captured.table} where id > 1`);
    expect(await jobs(captured)).toBe('1 pending, 2 cancelled, 3 active');
    expect(await rows.read(String(third?.id))).toMatchObject({ reason: 'row_changed' });
  });

  test('that is not among the events cancels nothing', async () => {
    const captured = await capture(rows, { events: ['insert', 'update'] });
    await insert(captured, 1);
    await query(`delete from ${captured.table}`);
    expect(await jobs(captured)).toBe('1 pending');
  });
});

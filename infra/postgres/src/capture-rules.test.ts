import type { Queryable } from '@outbox/core';
import { capture, declare, errorsOf, jobsOf, triggersOf, type Captured } from './capture.fixture.ts';
import { rowsOf, useRows, type Row } from './rows.fixture.ts';

const rows = useRows();

const query = (sql: string, values?: unknown[], db: Queryable = rows.database.pool) => rowsOf(db, sql, values);
const jobs = (captured: Captured) => jobsOf(captured, rows.database.pool);
const triggers = (table: string) => triggersOf(table, rows.database.pool);
const again = ({ rule }: Captured, changes: object = {}) => declare({ ...rule, ...changes }, rows.database.pool);

const EVENTS = ['delete', 'insert', 'update'];
/** The names its triggers have, in the order triggersOf gives them. */
const named = ({ name }: Captured, events: string[] = EVENTS, enabled = 'O') =>
  events.map((event) => `capture_${name.replace('.', '_')}_${event} ${enabled}`);

/** All that a capture may change. */
async function everything({ name, table }: Captured): Promise<unknown> {
  return Promise.all([
    query('select *, xmin from outbox.captures where name = $1', [name]),
    query('select oid, xmin, tgname, tgfoid from pg_trigger where tgrelid = $1::regclass order by oid', [table]),
    query(`select oid, xmin, proname from pg_proc where proname like 'capture_test%' order by oid`),
  ]);
}

async function rowOf(name: string): Promise<Row> {
  return (await query('select * from outbox.captures where name = $1', [name]))[0] ?? {};
}

describe('a rule', () => {
  test('is listed with its text, since when it captures, and which triggers serve it', async () => {
    const captured = await capture(rows, {
      columns: ['email'],
      when: 'row.email is not null',
      delay: `interval '1 day'`,
    });
    const names = Object.fromEntries(EVENTS.map((event, n) => [event, named(captured)[n]?.replace(' O', '')]));
    expect(await rowOf(captured.name)).toMatchObject({
      ...{ name: captured.name, table_name: captured.table, job_name: captured.job, enabled: true },
      rule: {
        ...{ key: 'row.id::text', columns: ['email'], when: 'row.email is not null', delay: `interval '1 day'` },
        ...{ events: ['insert', 'update', 'delete'], reason: 'row_changed', reschedule: false },
      },
      triggers: names,
      enabled_at: expect.any(Date) as Date,
    });
    expect(await triggers(captured.table)).toEqual(named(captured));
  });

  test('has functions that are owned by outbox_owner, run with its rights, and are for nobody to call', async () => {
    const captured = await capture(rows);
    const functions = `
      select p.proowner::regrole::text as owner, p.prosecdef as definer, has_function_privilege('anon', p.oid, 'execute') as open
      from pg_trigger t join pg_proc p on p.oid = t.tgfoid where t.tgrelid = $1::regclass`;
    const ours = { owner: 'outbox_owner', definer: true, open: false };
    expect(await query(functions, [captured.table])).toEqual([ours, ours, ours]);
  });

  test('may name its insert trigger and that function, as an application knows them', async () => {
    await query('create schema if not exists app authorization outbox_owner');
    const captured = await capture(rows, { insert_trigger: 'On Created', insert_function: 'app."Schedule"' });
    expect(await triggers(captured.table)).toEqual(['On Created O', ...named(captured, ['delete', 'update'])]);
    expect(await query(`select to_regprocedure('app."Schedule"()') is not null as found`)).toEqual([{ found: true }]);
    await query(`insert into ${captured.table} (id) values (1)`);
    expect(await jobs(captured)).toBe('1 pending');
    await query('select outbox.drop_capture($1)', [captured.name]);
    expect(await query(`select to_regprocedure('app."Schedule"()') as found`)).toEqual([{ found: null }]);
  });

  test('declared once more unchanged changes nothing', async () => {
    const captured = await capture(rows);
    const before = await everything(captured);
    expect(await again(captured)).toBe('unchanged');
    expect(await everything(captured)).toEqual(before);
  });

  test('declared anew replaces the one of its name, keeps since when it captures, and locks no writer out', async () => {
    const captured = await capture(rows, { when: 'row.id < 10' });
    const { enabled_at } = await rowOf(captured.name);
    const writer = await rows.begin();
    await query(`insert into ${captured.table} (id) values (1)`, [], writer);
    expect(await again(captured, { when: 'row.id >= 10' })).toBe('replaced');
    await writer.query('commit');
    await query(`insert into ${captured.table} (id) values (2), (11)`);
    expect(await jobs(captured)).toBe('1 pending, 11 pending');
    expect(await rowOf(captured.name)).toMatchObject({ enabled_at, rule: { when: 'row.id >= 10' } });
  });

  test('with fewer events loses their triggers and functions, and gets them again with more', async () => {
    const captured = await capture(rows);
    await again(captured, { events: ['update'] });
    expect(await triggers(captured.table)).toEqual(named(captured, ['update']));
    expect(Object.keys((await rowOf(captured.name)).triggers as object)).toEqual(['update']);
    await again(captured);
    expect(await triggers(captured.table)).toEqual(named(captured));
  });

  test('that names its insert trigger otherwise has that one renamed', async () => {
    const captured = await capture(rows, { events: ['insert'] });
    await again(captured, { insert_trigger: 'on_created' });
    expect(await triggers(captured.table)).toEqual(['on_created O']);
    await again(captured);
    expect(await triggers(captured.table)).toEqual(named(captured, ['insert']));
  });

  test('for another table moves there, and captures from now on', async () => {
    const [captured, other] = [await capture(rows), await capture(rows)];
    await query(`update outbox.captures set enabled_at = now() - interval '1 day'`);
    await again(captured, { table_name: other.table });
    expect(await triggers(captured.table)).toEqual([]);
    expect(await triggers(other.table)).toEqual([...named(captured), ...named(other)].sort());
    const since = `select enabled_at > now() - interval '1 hour' as now from outbox.captures where name = $1`;
    expect(await query(since, [captured.name])).toEqual([{ now: true }]);
  });

  test('whose table is gone may be declared for another', async () => {
    const [captured, other] = [await capture(rows), await capture(rows)];
    await query(`drop table ${captured.table}`);
    expect(await again(captured, { table_name: other.table })).toBe('replaced');
    expect(await triggers(other.table)).toHaveLength(6);
  });

  test('of a partitioned table captures what is written through it', async () => {
    const captured = await capture(rows);
    const { pool } = rows.database;
    await pool.query(`create table ${captured.table}_p (id int primary key) partition by range (id);
      create table ${captured.table}_p1 partition of ${captured.table}_p for values from (0) to (9)`);
    await again(captured, { table_name: `${captured.table}_p` });
    await query(`insert into ${captured.table}_p (id) values (1)`);
    expect(await jobs(captured)).toBe('1 pending');
  });
});

describe('drop_capture', () => {
  test('takes away the triggers, the functions and the row, and leaves open jobs open', async () => {
    const captured = await capture(rows);
    await query(`insert into ${captured.table} (id) values (1)`);
    await query('select outbox.drop_capture($1)', [captured.name]);
    await query(`insert into ${captured.table} (id) values (2)`);
    expect(await triggers(captured.table)).toEqual([]);
    const left = 'select proname from pg_proc where starts_with(proname, $1)';
    expect(await query(left, [`capture_${captured.name.replace('.', '_')}`])).toEqual([]);
    expect(await rowOf(captured.name)).toEqual({});
    expect(await jobs(captured)).toBe('1 pending');
  });

  test('works when the table is gone', async () => {
    const captured = await capture(rows);
    await query(`drop table ${captured.table}`);
    await query('select outbox.drop_capture($1)', [captured.name]);
    expect(await rowOf(captured.name)).toEqual({});
  });

  test('of a name that does not exist says so', async () => {
    await expect(query(`select outbox.drop_capture('nothing')`)).rejects.toMatchObject({
      code: '22023',
      message: 'name: there is no capture "nothing"',
    });
  });

  test('has the next migrate install the families anew', async () => {
    const captured = await capture(rows);
    await query('select outbox.drop_capture($1)', [captured.name]);
    expect(await query(`select name from outbox.applied_files where name ~ '^families/[^/]+$'`)).toEqual([]);
  });
});

describe('a trigger that a person', () => {
  test('dropped is not restored by declaring the rule again, changed or not, but by dropping it first', async () => {
    const captured = await capture(rows);
    const [onDelete, , onUpdate] = named(captured);
    await query(`drop trigger ${onDelete?.replace(' O', '')} on ${captured.table}`);
    await query(`drop trigger ${onUpdate?.replace(' O', '')} on ${captured.table}`);
    await again(captured);
    await again(captured, { when: 'row.id > 0' });
    expect(await triggers(captured.table)).toEqual(named(captured, ['insert']));
    await query('select outbox.drop_capture($1)', [captured.name]);
    await again(captured);
    expect(await triggers(captured.table)).toEqual(named(captured));
  });

  test('disabled stays disabled, also under another name and with another function', async () => {
    await query('create schema if not exists app authorization outbox_owner');
    const captured = await capture(rows, { events: ['insert'] });
    await query(`alter table ${captured.table} disable trigger user`);
    await again(captured, { when: 'row.id > 0' });
    expect(await triggers(captured.table)).toEqual(named(captured, ['insert'], 'D'));
    await again(captured, { insert_trigger: 'on_created', insert_function: 'app.on_created' });
    expect(await triggers(captured.table)).toEqual(['on_created D']);
  });
});

describe('a capture written by hand', () => {
  test('is taken over with its insert trigger and since when it captures; its other triggers stay', async () => {
    const { table, job, name, rule } = await capture(rows);
    await query('select outbox.drop_capture($1)', [name]);
    await query(`insert into outbox.captures (table_name, job_name, enabled_at) values ($1, $2, '2031-02-03Z')`, [
      table,
      job,
    ]);
    await query(`create function app_by_hand() returns trigger language plpgsql as 'begin return null; end'`);
    await query(`create trigger on_changed after update on ${table} for each statement execute function app_by_hand()`);
    // A person has dropped on_created.
    const taken = { ...rule, events: ['insert'], insert_trigger: 'on_created' };
    expect(await declare(taken, rows.database.pool)).toBe('replaced');
    expect(await triggers(table)).toEqual(['on_changed O']);
    expect(await rowOf(name)).toMatchObject({
      enabled_at: new Date('2031-02-03Z'),
      triggers: { insert: 'on_created' },
    });
    await query(`update outbox.captures set triggers = triggers || '{"update": "on_changed"}' where name = $1`, [name]);
    await declare({ ...taken, when: 'row.id > 0' }, rows.database.pool);
    expect(await rowOf(name)).toMatchObject({ triggers: { insert: 'on_created', update: 'on_changed' } });
  });
});

test('a newer version of the generated functions reaches the rules that are there', async () => {
  const captured = await capture(rows);
  const [insertFunction = ''] = named(captured, ['insert']).map((name) => `outbox.${name.replace(' O', '')}`);
  await query(
    `create or replace function ${insertFunction}() returns trigger language plpgsql as 'begin return null; end'`,
  );
  await query('select outbox.refresh_captures()');
  await query(`insert into ${captured.table} (id) values (1)`);
  expect(await jobs(captured)).toBe('1 pending');
  expect(await errorsOf(captured, rows.database.pool)).toEqual([]);
});

import { SQLSTATE, type PoolClient } from '@outbox/core';
import { capture, declare, type Rule } from './capture.fixture.ts';
import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

describe('refused, with the argument named, is', () => {
  test.each([
    ['name', { name: 'Bubble' }, '"Bubble" is no name of a capture'],
    ['name', { name: `a${'b'.repeat(47)}` }, 'is no name of a capture'],
    ['name', { name: null }, 'is no name of a capture'],
    ['table_name', { table_name: 'public.nothing' }, 'there is no table "public.nothing"'],
    ['table_name', { table_name: 'users; drop table x' }, ''],
    ['table_name', { table_name: null }, 'there is no table'],
    ['table_name', { table_name: 'outbox.queues_seen' }, 'there is no table'],
    ['table_name', { table_name: 'pg_catalog.pg_locks' }, 'pg_locks is no table that lasts'],
    ['table_name', { table_name: 'public.keyless' }, 'public.keyless has no primary key'],
    ['table_name', { table_name: 'closed.things' }, 'outbox_owner may not use the schema of closed.things'],
    ['job_name', { job_name: 'nothing' }, 'there is no job named "nothing"'],
    ['key', { key: 'row.nothing' }, 'column row.nothing does not exist'],
    ['key', { key: 'id' }, 'column reference "id" is ambiguous'],
    ['key', { key: 'count(*)::text' }, 'aggregate functions are not allowed in WHERE'],
    ['key', { key: 'row.id ||' }, 'syntax error at or near ")"'],
    ['key', { key: null }, 'a delete cancels the job of the key, and there is none'],
    ['key', { key: null, events: ['update'], cancel_when: 'true' }, 'cancel_when cancels the job of the key'],
    ['key', { key: null, events: ['update'], reschedule: true }, 'reschedule moves the job of the key'],
    ['columns', { columns: ['email', 'nothing'] }, 'has no column "nothing"'],
    ['columns', { columns: [] }, 'at least one, or null for all'],
    ['when', { when: 'row.id' }, 'must be type boolean, not type integer'],
    ['cancel_when', { cancel_when: `row.email` }, 'must be type boolean, not type text'],
    ['payload', { payload: 'row.id' }, 'cannot cast type integer to jsonb'],
    ['payload', { payload: 'app_secret()' }, 'function app_secret() does not exist'],
    ['payload', { payload: 'closed.secret()' }, 'permission denied for schema closed'],
    ['payload', { payload: 'public.secret()' }, 'permission denied for function secret'],
    ['owner_id', { owner_id: 'row.id' }, 'cannot cast type integer to uuid'],
    ['serial_key', { serial_key: 'row.nothing' }, 'column row.nothing does not exist'],
    ['priority', { priority: 'row.due_at' }, 'cannot cast type timestamp with time zone to integer'],
    ['scheduled_at', { scheduled_at: 'row.id' }, 'cannot cast type integer to timestamp with time zone'],
    ['delay', { delay: 'row.due_at' }, 'cannot cast type timestamp with time zone to interval'],
    ['delay', { delay: `interval '1 h'`, scheduled_at: 'now()' }, 'scheduled_at says already when'],
    ['events', { events: [] }, 'at least one of insert, update and delete'],
    ['events', { events: null }, 'at least one of insert, update and delete'],
    ['events', { events: ['insert', 'truncate'] }, 'are not all among insert, update and delete'],
    ['events', { events: ['update'], insert_trigger: 'x' }, 'without insert there is no insert_trigger'],
    ['insert_trigger', { insert_trigger: '' }, 'a name has 1 to 63 bytes'],
    ['insert_trigger', { insert_trigger: 'taken' }, 'has another trigger named "taken"'],
    ['insert_function', { insert_function: 'nothing.f' }, 'is no function of a schema that exists'],
    ['insert_function', { insert_function: 'f' }, 'is no function of a schema that exists'],
    ['insert_function', { insert_function: 'a b' }, 'is no function of a schema that exists'],
    ['insert_function', { insert_function: 'outbox.wake_bridge' }, 'the schema outbox is for functions of our own'],
    ['insert_function', { insert_function: 'public.secret' }, 'exists, and is no trigger function of outbox_owner'],
  ])('%s of %j', async (argument, wrong, problem) => {
    const captured = await capture(rows);
    const client = await rows.begin();
    await client.query(`
      create table public.keyless (id int);
      create schema closed;
      create table closed.things (id int primary key);
      create function closed.secret() returns jsonb language sql as $$select '{}'::jsonb$$;
      create function public.secret() returns jsonb language sql as $$select '{}'::jsonb$$;
      revoke execute on function public.secret() from public;
      create function public.by_hand() returns trigger language plpgsql as 'begin return null; end';
      create trigger taken after insert on ${captured.table} for each row execute function public.by_hand()`);
    const job_name = await rows.addType();
    const refusal: unknown = await declare({ ...captured.rule, name: 'test.wrong', job_name, ...wrong }, client).catch(
      (error: unknown) => error,
    );
    expect(refusal).toMatchObject({ code: '22023', message: expect.stringContaining(problem) as string });
    expect(refusal).toHaveProperty('message', expect.stringMatching(new RegExp(`^${argument}: `)));
  });

  test('a second rule of a table for the same job, and one that would share the functions of another', async () => {
    const captured = await capture(rows);
    await expect(declare({ ...captured.rule, name: 'test.second' }, rows.database.pool)).rejects.toMatchObject({
      message: `job_name: another rule captures ${captured.table} for ${captured.job}`,
    });
    const alike = captured.name.replace('.', '_');
    await expect(declare({ ...captured.rule, name: alike }, rows.database.pool)).rejects.toMatchObject({
      message: `name: "${alike}" would share the functions of "${captured.name}"`,
    });
  });
});

describe('who may declare a rule', () => {
  /** A login role that owns a table of its own, in a transaction that is rolled back. */
  async function asOwner(member: boolean): Promise<{ client: PoolClient; rule: Rule }> {
    const client = await rows.begin();
    const role = `app_${String(process.pid)}_${member ? 'm' : 'n'}`;
    await client.query(`create role ${role} nosuperuser`);
    if (member) await client.query(`grant outbox_owner to ${role}`);
    await client.query(`create schema mine authorization ${role}; set local role ${role};
      create table mine.things (id int primary key); grant usage on schema mine to outbox_owner`);
    const job_name = await rows.addType();
    return { client, rule: { name: 'mine.things', table_name: 'mine.things', job_name, key: 'row.id::text' } };
  }

  test('is a member of outbox_owner that owns the table: no superuser is needed', async () => {
    const { client, rule } = await asOwner(true);
    expect(await declare(rule, client)).toBe('created');
    await client.query('insert into mine.things values (1); update mine.things set id = 2');
    expect(await declare({ ...rule, events: ['insert'], when: 'row.id > 1' }, client)).toBe('replaced');
    await client.query(`select outbox.drop_capture('mine.things')`);
    await client.query('reset role');
    expect(
      await rowsOf(client, `select key, state from outbox.jobs where name = $1 order by id`, [rule.job_name]),
    ).toEqual([
      { key: '1', state: 'cancelled' },
      { key: '2', state: 'pending' },
    ]);
  });

  test('is nobody else, whatever they own', async () => {
    const { client, rule } = await asOwner(false);
    await expect(declare(rule, client)).rejects.toMatchObject({ code: SQLSTATE.insufficientPrivilege });
  });

  test.each(['outbox_worker', 'outbox_api', 'outbox_bridge', 'service_role', 'authenticated', 'anon'])(
    'is not %s, which may not drop one either',
    async (role) => {
      for (const sql of [
        `select outbox.capture(name => 'x', table_name => 'public.x', job_name => 'x')`,
        `select outbox.drop_capture('x')`,
        'select outbox.check_capture_expression(null, null, null)',
      ]) {
        const client = await rows.begin();
        await client.query(`set local role ${role}`);
        await expect(client.query(sql)).rejects.toMatchObject({ code: SQLSTATE.insufficientPrivilege });
      }
    },
  );
});

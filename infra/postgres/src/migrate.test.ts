import { randomBytes } from 'node:crypto';
import { ConfigError, createPool, SCHEMA_VERSION, UnavailableError, type JobDefinition, type Pool } from '@outbox/core';
import { catalog } from '@outbox/jobs';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { migrate, type MigrateOptions } from './migrate.ts';

/** Of the instance "test", on Redis, with the host's tables: what createTestDatabase gives. */
let database: TestDatabase;
beforeEach(async () => void (database = await createTestDatabase()));
afterEach(() => database.drop());

/** Migrates and returns what it said it did. */
async function run(url: string, options: Partial<MigrateOptions> = {}): Promise<string[]> {
  const lines: string[] = [];
  const log = (line: string) => void lines.push(line);
  await migrate({ databaseUrl: url, instance: 'test', backend: 'redis', timings: 'production', log, ...options });
  return lines;
}

async function rowsOf(pool: Pool, sql: string, values?: unknown[]): Promise<Record<string, unknown>[]> {
  const { rows } = await pool.query<Record<string, unknown>>(sql, values);
  return rows;
}

/** An empty database of its own, gone after `work`. */
async function withEmptyDatabase(work: (url: string, pool: Pool) => Promise<void>): Promise<void> {
  const name = `${database.name}_${randomBytes(2).toString('hex')}`;
  await database.pool.query(`create database ${name}`);
  const url = Object.assign(new URL(database.url), { pathname: `/${name}` }).toString();
  const pool = createPool({ url, applicationName: 'migrate test', max: 2, onError: () => undefined });
  try {
    await work(url, pool);
  } finally {
    await pool.end();
    await database.pool.query(`drop database ${name} with (force)`);
  }
}

/** Makes migrate believe that a file, or a group of files, was applied with another text. */
async function forgetHash(name: string): Promise<void> {
  const { rowCount } = await database.pool.query(`update outbox.applied_files set hash = 'other' where name = $1`, [
    name,
  ]);
  expect(rowCount).toBe(1);
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => 'It did not fail.',
    (error: unknown) => error,
  );
}

/** Everything migrate writes besides objects. */
async function everything(): Promise<unknown> {
  const tables = ['meta', 'applied_files', 'job_types', 'queues', 'captures', 'jobs', 'ready'];
  return Promise.all(tables.map((table) => rowsOf(database.pool, `select * from outbox.${table} order by 1`)));
}

describe('a fresh database', () => {
  test('gets everything by one run, and nothing by a second', async () => {
    await withEmptyDatabase(async (url, pool) => {
      const lines = await run(url, { host: true });
      expect(lines).toEqual(
        expect.arrayContaining([
          'applied migrations/0001_outbox.sql',
          'applied functions',
          'applied families/reminders',
        ]),
      );
      expect(await rowsOf(pool, 'select instance, backend, schema_version from outbox.meta')).toEqual([
        { instance: 'test', backend: 'redis', schema_version: SCHEMA_VERSION },
      ]);
      expect(await run(url, { host: true })).toEqual([]);
    });
  });

  test('four runs at once all succeed, and each file is applied by one of them', async () => {
    await withEmptyDatabase(async (url) => {
      const runs = await Promise.all(Array.from({ length: 4 }, () => run(url, { host: true })));
      const lines = runs.flat();
      expect(lines).toContain('applied migrations/0001_outbox.sql');
      expect([...new Set(lines)].sort()).toEqual([...lines].sort());
    });
  });

  test('without the tables of a family it leaves the family out and says which are missing, until they are there', async () => {
    await withEmptyDatabase(async (url, pool) => {
      const missing = 'public.auto_syncs, public.crew_members, public.contacts, public.auto_sync_responses';
      const schemas = `select to_regnamespace('outbox') is not null as outbox, to_regnamespace('reminders') as reminders`;
      expect(await run(url)).toContain(
        `left out reminders: this database has no ${missing}, public.auto_sync_messages`,
      );
      expect(await rowsOf(pool, schemas)).toEqual([{ outbox: true, reminders: null }]);

      expect(await run(url, { host: true })).toContain('applied families/reminders');
      expect(await rowsOf(pool, `select job_name from outbox.captures where job_name = 'reminder_24h'`)).toEqual([
        { job_name: 'reminder_24h' },
      ]);
    });
  });
});

describe('files that were applied', () => {
  test('an edited migration is refused by name, before anything is changed', async () => {
    await forgetHash('migrations/0001_outbox.sql');
    const before = await everything();
    const error = await failureOf(run(database.url, { timings: 'demo' }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error).toHaveProperty(
      'message',
      'migrations/0001_outbox.sql was changed after it had been applied to this database. ' +
        'Restore it and add a new file instead.',
    );
    expect(await everything()).toEqual(before);
  });

  test('functions are applied again when their text has changed, and only they', async () => {
    const lock = 'select outbox.awake_lock() as lock';
    const original = await rowsOf(database.pool, lock);
    await database.pool.query(
      `create or replace function outbox.awake_lock() returns bigint language sql immutable return 1`,
    );
    expect(await run(database.url)).toEqual([]);
    await forgetHash('functions');
    expect(await run(database.url)).toEqual(['applied functions']);
    expect(await rowsOf(database.pool, lock)).toEqual(original);
  });

  test("a family's objects are applied again when their text has changed, and only they", async () => {
    const found = `select to_regclass('reminders.job_queue') is not null as found`;
    await database.pool.query('drop view reminders.job_queue cascade');
    await forgetHash('families/reminders');
    expect(await run(database.url)).toEqual(['applied families/reminders']);
    expect(await rowsOf(database.pool, found)).toEqual([{ found: true }]);
  });

  test('a trigger that a person dropped stays dropped', async () => {
    const triggers = `select tgname from pg_trigger where tgname = 'on_auto_sync_created'`;
    expect(await rowsOf(database.pool, triggers)).toHaveLength(1);
    await database.pool.query('drop trigger on_auto_sync_created on public.auto_syncs');
    await forgetHash('families/reminders');
    expect(await run(database.url)).toEqual(['applied families/reminders']);
    expect(await rowsOf(database.pool, triggers)).toEqual([]);
  });

  test('a trigger that a person dropped comes back once its capture is dropped', async () => {
    const triggers = `select tgname from pg_trigger where tgname like 'on_auto_sync_%' order by 1`;
    const all = await rowsOf(database.pool, triggers);
    await database.pool.query('drop trigger on_auto_sync_created on public.auto_syncs');
    await database.pool.query('drop trigger on_auto_sync_deleted on public.auto_syncs');
    await database.pool.query(`select outbox.drop_capture('reminders.auto_syncs')`);
    expect(await run(database.url)).toContain('applied families/reminders');
    expect(await rowsOf(database.pool, triggers)).toEqual(all);
    await database.pool.query('drop trigger on_auto_sync_deleted on public.auto_syncs');
    await database.pool.query(`delete from outbox.captures where name = 'reminders.auto_syncs'`);
    await run(database.url);
    expect(await rowsOf(database.pool, triggers)).toEqual(all);
  });

  test('a trigger that a person disabled stays disabled', async () => {
    await database.pool.query('alter table public.auto_syncs disable trigger user');
    await forgetHash('families/reminders');
    await run(database.url);
    const enabled = `select tgname from pg_trigger where tgname like 'on_auto_sync_%' and tgenabled <> 'D'`;
    expect(await rowsOf(database.pool, enabled)).toEqual([]);
  });

  test('a capture of an older version is taken over as a rule, since when it captures', async () => {
    await database.pool.query(`
      delete from outbox.captures;
      insert into outbox.captures (table_name, job_name, enabled_at)
      values ('public.auto_syncs', 'reminder_24h', '2031-02-03Z')`);
    await run(database.url);
    expect(
      await rowsOf(database.pool, "select name, enabled_at from outbox.captures where job_name = 'reminder_24h'"),
    ).toEqual([{ name: 'reminders.auto_syncs', enabled_at: new Date('2031-02-03Z') }]);
  });

  test('a file that cannot be applied is named, and nothing of its group is kept', async () => {
    await database.pool.query(`
      create or replace function outbox.request_user() returns uuid language sql stable return null::uuid;
      drop table outbox.ready`);
    await forgetHash('functions');
    const error = await failureOf(run(database.url));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error).toHaveProperty(
      'message',
      'functions/30_wake_bridge.sql could not be applied: relation "outbox.ready" does not exist',
    );
    expect(await rowsOf(database.pool, `select hash from outbox.applied_files where name = 'functions'`)).toEqual([
      { hash: 'other' },
    ]);
    expect(await rowsOf(database.pool, `select pg_get_functiondef('outbox.request_user'::regproc) as def`)).toEqual([
      { def: expect.stringContaining('NULL::uuid') as string },
    ]);
  });
});

describe('the job catalogue', () => {
  const MILLISECONDS = (column: string) => `(extract(epoch from ${column}) * 1000)::float8`;

  function timingsInDatabase(): Promise<Record<string, unknown>[]> {
    const asked = `name, ${MILLISECONDS('delay')} as "delayMs", ${MILLISECONDS('backoff')} as "backoffMs"`;
    return rowsOf(database.pool, `select ${asked} from outbox.job_types order by name`);
  }

  function timingsInCode(which: 'production' | 'demo'): Record<string, unknown>[] {
    const definitions: readonly JobDefinition[] = catalog;
    return definitions
      .map(({ name, timings }) => ({ name, ...timings[which] }))
      .sort((a, b) => a.name.localeCompare(b.name));
  }

  test('TIMINGS decides which delays and backoffs the jobs get, at every run', async () => {
    expect(await timingsInDatabase()).toEqual(timingsInCode('production'));
    await run(database.url, { timings: 'demo' });
    expect(await timingsInDatabase()).toEqual(timingsInCode('demo'));
    await run(database.url, { timings: 'production' });
    expect(await timingsInDatabase()).toEqual(timingsInCode('production'));
  });

  test("an operator's own values survive, while the code's are written again", async () => {
    const operators = `
      operator_delay = '2 hours', operator_max_attempts = 9, operator_backoff = '7 seconds',
      operator_timeout = '3 minutes', operator_retention = '1 day', operator_failed_retention = '2 days'`;
    await database.pool.query(`update outbox.job_types set max_attempts = 77, queue = 'elsewhere', ${operators}`);
    await run(database.url, { timings: 'demo' });
    const kept = operators.replaceAll(',', ' and');
    expect(await rowsOf(database.pool, `select name from outbox.job_types where (${kept}) is not true`)).toEqual([]);
    expect(await rowsOf(database.pool, `select name, max_attempts, queue from outbox.job_types order by name`)).toEqual(
      [...catalog]
        .sort((a, b) => a.name.localeCompare(b.name))
        .map(({ name, attempts, queue }) => ({ name, max_attempts: attempts, queue })),
    );
  });

  test('a job that is no longer defined stays, for its rows may be open', async () => {
    await database.pool.query(`
      insert into outbox.job_types (
        name, family, queue, unique_mode, max_attempts, backoff_type, backoff, backoff_jitter, timeout, retention,
        failed_retention
      )
      values ('retired', 'old', 'old', 'none', 1, 'fixed', '1 s', 0, '1 s', '1 day', '1 day')`);
    await run(database.url);
    expect(await rowsOf(database.pool, `select queue from outbox.job_types where name = 'retired'`)).toEqual([
      { queue: 'old' },
    ]);
  });

  test("a person's pause of a queue survives", async () => {
    await database.pool.query(
      `update outbox.queues set paused_at = now(), paused_by = 'ann', reason = 'provider down'`,
    );
    const before = await rowsOf(database.pool, 'select * from outbox.queues order by name');
    await run(database.url);
    expect(await rowsOf(database.pool, 'select * from outbox.queues order by name')).toEqual(before);
  });
});

describe('a database of another instance', () => {
  test('is refused before anything is changed, both named', async () => {
    await forgetHash('functions');
    const before = await everything();
    const error = await failureOf(run(database.url, { instance: 'staging', timings: 'demo', backend: 'postgres' }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error).toHaveProperty(
      'message',
      'This database belongs to instance "test", but OUTBOX_INSTANCE is "staging". If it is a copy that should act on ' +
        'its own, run "npm run migrate -- --claim-instance"; its open jobs will then run here too.',
    );
    expect(await everything()).toEqual(before);
  });

  test('becomes ours when it is claimed, and is then refused to the other', async () => {
    await run(database.url, { instance: 'staging', claimInstance: true });
    expect(await rowsOf(database.pool, 'select instance from outbox.meta')).toEqual([{ instance: 'staging' }]);
    expect(await run(database.url, { instance: 'staging' })).toEqual([]);
    expect(await failureOf(run(database.url))).toBeInstanceOf(ConfigError);
  });
});

describe('switching the queue backend', () => {
  test('gives whatever the old one held back to be published under the next generation, spending no attempt; the rest stays', async () => {
    const { pool } = database;
    await pool.query(`
      select outbox.enqueue('pause_check_48h', key => k) from unnest(array['ended', 'held', 'new', 'running']) as k (k);
      delete from outbox.ready using outbox.jobs j where j.id = job_id and j.key <> 'new';
      update outbox.jobs set state = 'published', published_at = now(), published_epoch = 1 where key = 'held';
      update outbox.jobs
      set state = 'active', run = 1, attempt = 1, locked_by = 'w', locked_until = now() + interval '1 minute',
        started_at = now()
      where key = 'running';
      update outbox.jobs set state = 'completed', finished_at = now(), holds_key = false where key = 'ended'`);

    expect(await run(database.url, { backend: 'postgres' })).toEqual([
      'switched the queue backend to postgres; 2 open jobs will be published again',
    ]);

    const asked = `
      select j.key, j.state, j.generation, j.attempt, j.interruptions, r.generation as ready
      from outbox.jobs j left join outbox.ready r on r.job_id = j.id
      order by j.key`;
    expect(await rowsOf(pool, asked)).toEqual([
      { key: 'ended', state: 'completed', generation: 1, attempt: 0, interruptions: 0, ready: null },
      { key: 'held', state: 'pending', generation: 2, attempt: 0, interruptions: 0, ready: 2 },
      { key: 'new', state: 'pending', generation: 1, attempt: 0, interruptions: 0, ready: 1 },
      { key: 'running', state: 'pending', generation: 2, attempt: 0, interruptions: 1, ready: 2 },
    ]);
    expect(await rowsOf(pool, 'select attempt, run, outcome from outbox.attempts')).toEqual([
      { attempt: 1, run: '1', outcome: 'interrupted' },
    ]);
    expect(await rowsOf(pool, 'select backend from outbox.meta')).toEqual([{ backend: 'postgres' }]);
    expect(await rowsOf(pool, `select to_regnamespace('bullmq') is not null as made`)).toEqual([{ made: true }]);
    expect(await run(database.url, { backend: 'postgres' })).toEqual([]);
  });
});

describe('access', () => {
  const OURS = `
    select
      p.oid::regprocedure::text as name, p.prosecdef, p.proconfig, p.proacl, pg_get_userbyid(p.proowner) as owner
    from pg_proc p
    where p.pronamespace in ('outbox'::regnamespace, 'reminders'::regnamespace)`;

  test('no function of ours may be executed by everybody', async () => {
    const open = `
      with ours as (${OURS})
      select name from ours
      where proacl is null or exists (select from aclexplode(proacl) where grantee = 0)`;
    expect((await rowsOf(database.pool, OURS)).length).toBeGreaterThan(10);
    expect(await rowsOf(database.pool, open)).toEqual([]);
  });

  test('every function that acts as its owner belongs to outbox_owner and has a fixed search_path', async () => {
    const loose = `
      with ours as (${OURS} and p.prosecdef)
      select name, owner, proconfig from ours
      where owner <> 'outbox_owner' or not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)`;
    expect((await rowsOf(database.pool, `${OURS} and p.prosecdef`)).length).toBeGreaterThan(5);
    expect(await rowsOf(database.pool, loose)).toEqual([]);
  });

  test('none of our roles, outbox_owner included, is a superuser, can log in or passes row level security', async () => {
    const roles = ['outbox_api', 'outbox_bridge', 'outbox_owner', 'outbox_worker'];
    const asked = `
      select rolname, rolsuper, rolcanlogin, rolbypassrls
      from pg_roles
      where rolname = any ($1)
      order by rolname`;
    const powerless = { rolsuper: false, rolcanlogin: false, rolbypassrls: false };
    expect(await rowsOf(database.pool, asked, [roles])).toEqual(roles.map((rolname) => ({ rolname, ...powerless })));
  });

  test('worker, API and the service role may enqueue; bridge and the users of the application may not', async () => {
    const asked = `
      select role, bool_and(has_function_privilege(role, p.oid, 'execute')) as allowed
      from unnest($1::text[]) as r (role)
      cross join pg_proc p
      where p.pronamespace = 'outbox'::regnamespace and p.proname in ('enqueue', 'enqueue_many')
      group by role
      order by role`;
    const roles = ['anon', 'authenticated', 'outbox_api', 'outbox_bridge', 'outbox_worker', 'service_role'];
    expect(await rowsOf(database.pool, asked, [roles])).toEqual([
      { role: 'anon', allowed: false },
      { role: 'authenticated', allowed: false },
      { role: 'outbox_api', allowed: true },
      { role: 'outbox_bridge', allowed: false },
      { role: 'outbox_worker', allowed: true },
      { role: 'service_role', allowed: true },
    ]);
  });
});

describe('a server that cannot be used', () => {
  test('that does not answer is one line with its address, and no password', async () => {
    const error = await failureOf(run('postgres://app:pa55word@127.0.0.1:1/orders'));
    expect(error).toBeInstanceOf(UnavailableError);
    expect(error).toHaveProperty(
      'message',
      'Postgres at 127.0.0.1:1/orders does not answer (connect ECONNREFUSED 127.0.0.1:1). Start it, or correct DATABASE_URL.',
    );
  });

  test('that has no such database is a matter of settings', async () => {
    const url = Object.assign(new URL(database.url), { pathname: '/no_such_database' }).toString();
    expect(await failureOf(run(url))).toBeInstanceOf(ConfigError);
  });
});

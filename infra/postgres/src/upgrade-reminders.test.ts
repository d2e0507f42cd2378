import { randomUUID } from 'node:crypto';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { migrate } from './migrate.ts';

let database: TestDatabase;
beforeEach(async () => void (database = await createTestDatabase()));
afterEach(() => database.drop());

async function rowsOf(sql: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(sql, values)).rows;
}

const TRIGGERS = /* sql */ `
  select t.tgname, t.tgfoid::regproc::text as function, t.tgenabled, p.prosrc, p.proowner::regrole::text as owner, p.proconfig
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid
  where t.tgrelid = 'public.auto_syncs'::regclass and not t.tgisinternal
  order by t.tgname`;

/**
 * Makes of the installation what the first version left behind: triggers written by hand, and a capture that is no rule.
 * Its function writes nothing here, so that whatever is written after the upgrade was written by the new one.
 */
async function leaveAsFirstVersion(): Promise<void> {
  await database.pool.query(/* sql */ `
    delete from outbox.captures where table_name = 'public.auto_syncs';
    insert into outbox.captures (table_name, job_name, enabled_at)
    values ('public.auto_syncs', 'reminder_24h', '2026-01-02Z');
    create or replace function reminders.schedule_first_reminder() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
    as $$ begin return null; end $$;
    create or replace function reminders.follow_status() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
    as $$ begin return null; end $$;
    create or replace trigger on_auto_sync_created after insert on public.auto_syncs
    referencing new table as inserted for each statement execute function reminders.schedule_first_reminder();
    delete from outbox.applied_files where name = 'families/reminders'`);
}

const upgrade = () =>
  migrate({
    databaseUrl: database.url,
    instance: 'test',
    backend: 'redis',
    timings: 'production',
    families: ['reminders'],
  });

async function insertAutoSync(): Promise<string> {
  const [id, person, crew] = [randomUUID(), randomUUID(), randomUUID()];
  await database.pool.query('insert into auth.users (id) values ($1)', [person]);
  await database.pool.query('insert into public.profiles (id) values ($1)', [person]);
  await database.pool.query(`insert into public.crews (id, owner_id, name) values ($1, $2, 'Crew')`, [crew, person]);
  await database.pool.query(
    `insert into public.auto_syncs (id, organizer_id, crew_id, event_name) values ($1, $2, $3, 'Tour')`,
    [id, person, crew],
  );
  return id;
}

const jobsOf = (id: string) => rowsOf('select name, state, reason from outbox.jobs where key = $1 order by id', [id]);

test('an installation with the old triggers gets the functions of a new one, under the same names', async () => {
  const fresh = await rowsOf(TRIGGERS);
  await leaveAsFirstVersion();
  expect(await jobsOf(await insertAutoSync())).toEqual([]);
  await upgrade();
  expect(await rowsOf(TRIGGERS)).toEqual(fresh);

  const id = await insertAutoSync();
  expect(await jobsOf(id)).toEqual([{ name: 'reminder_24h', state: 'pending', reason: null }]);
  await database.pool.query(`update public.auto_syncs set status = 'paused' where id = $1`, [id]);
  expect(await jobsOf(id)).toMatchObject([{ name: 'reminder_24h', state: 'cancelled' }]);
});

test('what was written before stays as it is, and the capture is one row that is as old as it was', async () => {
  const before = await insertAutoSync();
  await leaveAsFirstVersion();
  await upgrade();
  expect(await jobsOf(before)).toMatchObject([{ name: 'reminder_24h', state: 'pending' }]);
  expect(
    await rowsOf(`select job_name, enabled_at from outbox.captures where table_name = 'public.auto_syncs'`),
  ).toEqual([{ job_name: 'reminder_24h', enabled_at: new Date('2026-01-02Z') }]);
});

test.each(['on_auto_sync_created', 'on_auto_sync_status_changed', 'on_auto_sync_deleted'])(
  'an upgrade does not restore %s, which a person dropped',
  async (name) => {
    const others = (await rowsOf(TRIGGERS)).map(({ tgname }) => tgname).filter((other) => other !== name);
    await leaveAsFirstVersion();
    await database.pool.query(`drop trigger ${name} on public.auto_syncs`);
    await upgrade();
    await upgrade();
    expect((await rowsOf(TRIGGERS)).map(({ tgname }) => tgname)).toEqual(others);
  },
);

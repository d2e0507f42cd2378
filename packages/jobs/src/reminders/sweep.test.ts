import { randomUUID } from 'node:crypto';
import { createPool, SQLSTATE, withTransaction, type Pool, type PoolClient } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createCrew, insertAutoSync, insertAutoSyncs, setStatus, type Crew } from './auto-sync.fixture.ts';

let database: TestDatabase;
/** What the bridge may do, and no more. */
let bridge: Pool;
let crew: Crew;

beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_bridge', applicationName: 'sweep', max: 2 };
  bridge = createPool({ ...options, onError: () => undefined });
  crew = await createCrew(database.pool, ['+15550001']);
  await sql(`update outbox.captures set enabled_at = now() - interval '30 days'`);
});
afterEach(async () => {
  await bridge.end();
  await database.drop();
});

async function sql(text: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(text, values)).rows;
}

const NOTHING = { recovered: 0, planned: 0, cancelled: 0, recorded: 0, failed: 0, error: null, more: false };
/** And it is to be called again. */
const HEALED = { ...NOTHING, more: true };

async function sweep(): Promise<unknown> {
  const { rows } = await bridge.query<{ swept: unknown }>('select reminders.sweep() as swept');
  return rows[0]?.swept;
}

/** What there is of an auto sync's jobs, in the order they were made. */
async function jobsOf(id: string): Promise<string[]> {
  const rows = await sql(`select name || ' ' || state as job from outbox.jobs where key = $1 order by id`, [id]);
  return rows.map(({ job }) => String(job));
}

const trigger = (action: 'enable' | 'disable', name = 'on_auto_sync_created') =>
  sql(`alter table public.auto_syncs ${action} trigger ${name}`);

/** An auto sync that its trigger missed (a bulk load), `age` old. */
async function missed(age = '1 hour'): Promise<string> {
  await trigger('disable');
  const id = await insertAutoSync(database.pool, crew);
  await trigger('enable');
  await sql(`update public.auto_syncs set created_at = now() - $2::interval where id = $1`, [id, age]);
  return id;
}

describe('a running auto sync that never had a reminder', () => {
  it('gets one, due 24 h after its creation, that is published like any other', async () => {
    const id = await missed('1 hour');
    expect(await sweep()).toEqual({ ...HEALED, planned: 1 });
    const asked = `
      select j.payload, j.owner_id, j.holds_key, r.job_id is not null as ready, j.due_at = j.scheduled_at as due,
        j.scheduled_at = s.created_at + interval '24 hours' as "onTime"
      from public.auto_syncs s join outbox.jobs j on j.key = s.id::text left join outbox.ready r on r.job_id = j.id
      where s.id = $1`;
    expect(await sql(asked, [id])).toEqual([
      {
        payload: { autoSyncId: id },
        owner_id: crew.organizerId,
        holds_key: true,
        ready: true,
        due: true,
        onTime: true,
      },
    ]);
  });

  it('and is older than a day is reminded now', async () => {
    const id = await missed('30 hours');
    expect(await sweep()).toEqual({ ...HEALED, planned: 1 });
    const asked = 'select scheduled_at = created_at as now from outbox.jobs where key = $1';
    expect(await sql(asked, [id])).toEqual([{ now: true }]);
  });

  it.each([
    ['is older than finished rows are kept', `update public.auto_syncs set created_at = now() - interval '73 hours'`],
    ['is from the future', `update public.auto_syncs set created_at = now() + interval '1 minute'`],
    ['is older than the capture', `update outbox.captures set enabled_at = now() - interval '59 minutes'`],
    ['is older than the operator keeps rows', `update outbox.job_types set operator_retention = '59 minutes'`],
    ['has been reminded by other means', 'update public.auto_syncs set last_reminder_sent_at = now()'],
    ['is paused', `update public.auto_syncs set status = 'paused'`],
    ['is of a capture that is switched off', 'update outbox.captures set enabled = false'],
    ['has a trigger that a person dropped', 'drop trigger on_auto_sync_created on public.auto_syncs'],
    ['has a trigger that is disabled', 'alter table public.auto_syncs disable trigger on_auto_sync_created'],
    ['has a trigger for replicas only', 'alter table public.auto_syncs enable replica trigger on_auto_sync_created'],
    [
      'has a trigger of that name that is not ours',
      `drop trigger on_auto_sync_created on public.auto_syncs;
       create trigger on_auto_sync_created before insert on public.auto_syncs
       for each row execute function suppress_redundant_updates_trigger()`,
    ],
  ])('gets none when it %s', async (_why, arrange) => {
    const id = await missed('1 hour');
    await sql(arrange);
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual([]);
  });

  it.each(['completed', 'skipped', 'failed', 'cancelled'])('is one without a row: a %s one counts', async (state) => {
    const id = await insertAutoSync(database.pool, crew);
    await sql(
      `update outbox.jobs set state = $2, finished_at = now(), holds_key = false, reason = 'why' where key = $1`,
      [id, state],
    );
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual([`reminder_24h ${state}`]);
  });

  it('that cannot be planned does not stop the others, and is counted', async () => {
    const [bad, good] = [await missed(), await missed()];
    await sql(`alter table outbox.jobs add constraint not_this_one check (key <> '${bad}')`);
    expect(await sweep()).toMatchObject({
      planned: 1,
      failed: 1,
      error: expect.stringContaining('not_this_one') as string,
    });
    expect(await jobsOf(good)).toEqual(['reminder_24h pending']);
    await sql('alter table outbox.jobs drop constraint not_this_one');
    expect(await sweep()).toEqual({ ...HEALED, planned: 1 });
  });

  it('comes with many: they are healed in batches', async () => {
    await trigger('disable');
    await insertAutoSyncs(
      database.pool,
      crew,
      Array.from({ length: 250 }, () => ({})),
    );
    await trigger('enable');
    expect(await sweep()).toEqual({ ...HEALED, planned: 200 });
    expect(await sweep()).toEqual({ ...HEALED, planned: 50 });
    expect(await sweep()).toEqual(NOTHING);
  });
});

describe('an open job of an auto sync that', () => {
  /** Changes auto syncs behind the triggers' backs. */
  async function unseen(text: string, values: unknown[]): Promise<void> {
    await withTransaction(database.pool, async (client) => {
      await client.query('set local session_replication_role = replica');
      await client.query(text, values);
    });
  }

  it.each(['paused', 'stopped', 'completed'])('is %s is cancelled, and taken out of BullMQ', async (status) => {
    const id = await insertAutoSync(database.pool, crew);
    await sql(`update outbox.jobs set state = 'published' where key = $1`, [id]);
    await unseen('update public.auto_syncs set status = $2 where id = $1', [id, status]);
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
    const asked = `
      select j.state, j.reason, r.job_id is not null as removed
      from outbox.jobs j left join outbox.removals r on r.job_id = j.id where j.key = $1`;
    expect(await sql(asked, [id])).toEqual([{ state: 'cancelled', reason: 'auto_sync_not_running', removed: true }]);
    expect(await sweep()).toEqual(NOTHING);
  });

  it('is gone is cancelled, and belongs to nobody', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await unseen('delete from public.auto_syncs where id = $1', [id]);
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
    const asked = 'select state, reason, owner_id from outbox.jobs where key = $1';
    expect(await sql(asked, [id])).toEqual([{ state: 'cancelled', reason: 'auto_sync_not_running', owner_id: null }]);
  });

  it('is paused is asked to stop when it is running', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await sql(`update outbox.jobs set state = 'active', run = 1, locked_until = now() + interval '1 minute'`);
    await unseen(`update public.auto_syncs set status = 'paused' where id = $1`, [id]);
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
    const asked = 'select state, reason, cancel_requested_at is not null as asked from outbox.jobs where key = $1';
    expect(await sql(asked, [id])).toEqual([{ state: 'active', reason: 'auto_sync_not_running', asked: true }]);
    expect(await sweep()).toEqual(NOTHING);
  });

  it('runs, and a job of no auto sync or of another family, are left alone', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await sql(`select outbox.enqueue('pause_check_48h', key => 'rubbish')`);
    await sql(`insert into outbox.jobs (name, queue, key, max_attempts, scheduled_at, due_at)
      values ('gmb_sync', 'gmb', gen_random_uuid()::text, 3, now(), now())`);
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual(['reminder_24h pending']);
    expect(await jobsOf('rubbish')).toEqual(['pause_check_48h pending']);
  });

  it('is paused and whose row somebody holds is left for the next time, at once', async () => {
    const [held, free] = [await insertAutoSync(database.pool, crew), await insertAutoSync(database.pool, crew)];
    await unseen(`update public.auto_syncs set status = 'paused' where id = any ($1)`, [[held, free]]);
    await holding(`select from outbox.jobs where key = '${held}' for no key update`, async () => {
      expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
    });
    expect(await jobsOf(held)).toEqual(['reminder_24h pending']);
    expect(await sweep()).toEqual({ ...HEALED, cancelled: 1 });
  });

  it('is being resumed just now is not cancelled for what was before', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await unseen(`update public.auto_syncs set status = 'paused' where id = $1`, [id]);
    const resuming = await database.pool.connect();
    await resuming.query('begin');
    await setStatus(resuming, id, 'running'); // finds the open reminder, and keeps it locked until it commits
    expect(await sweep()).toEqual(NOTHING);
    await resuming.query('commit');
    resuming.release();
    expect(await sweep()).toEqual(NOTHING);
    expect(await jobsOf(id)).toEqual(['reminder_24h pending']);
  });

  it('was resumed since the sweep found it is not cancelled: once the job is locked, it is looked at again', async () => {
    const id = await insertAutoSync(database.pool, crew);
    const cancel =
      'select reminders.cancel_unless_running($1, array(select id from outbox.jobs where key = $2)) as done';
    expect(await sql(cancel, [id, id])).toEqual([{ done: false }]);
    expect(await jobsOf(id)).toEqual(['reminder_24h pending']);
  });
});

/** Does `work` while another session holds what `lock` locks. */
async function holding<T>(lock: string, work: () => Promise<T>): Promise<T> {
  const holder = await database.pool.connect();
  try {
    await holder.query('begin');
    await holder.query(lock);
    return await work();
  } finally {
    await holder.query('rollback');
    holder.release();
  }
}

const errors = () =>
  sql('select key, sqlstate, healed_at is not null as healed from outbox.capture_errors order by id');

describe('what a capture set aside', () => {
  it('an insert that met a lock is planned as it would have been', async () => {
    const id = randomUUID();
    await holding(`select outbox.enqueue('reminder_24h', key => '${id}')`, () =>
      insertAutoSync(database.pool, crew, { id }),
    );
    expect(await errors()).toEqual([{ key: id, sqlstate: SQLSTATE.lockNotAvailable, healed: false }]);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await errors()).toMatchObject([{ healed: true }]);
    const asked = `
      select j.name, j.owner_id, j.scheduled_at = s.created_at + interval '24 hours' as "onTime"
      from outbox.jobs j join public.auto_syncs s on s.id::text = j.key`;
    expect(await sql(asked)).toEqual([{ name: 'reminder_24h', owner_id: crew.organizerId, onTime: true }]);
    expect(await sweep()).toEqual(NOTHING);
  });

  it('a pause that met a lock cancels', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await holding(`select from outbox.jobs where key = '${id}' for no key update`, () =>
      setStatus(database.pool, id, 'paused'),
    );
    expect(await errors()).toEqual([{ key: id, sqlstate: SQLSTATE.lockNotAvailable, healed: false }]);
    expect(await jobsOf(id)).toEqual(['reminder_24h pending']);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await jobsOf(id)).toEqual(['reminder_24h cancelled']);
  });

  it('a delete that met a lock cancels, and the row belongs to nobody', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await holding(`select from outbox.jobs where key = '${id}' for no key update`, () =>
      sql('delete from public.auto_syncs where id = $1', [id]),
    );
    expect(await errors()).toEqual([{ key: id, sqlstate: SQLSTATE.lockNotAvailable, healed: false }]);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    const asked = 'select state, owner_id from outbox.jobs where key = $1';
    expect(await sql(asked, [id])).toEqual([{ state: 'cancelled', owner_id: null }]);
  });

  it('a serialization failure that the trigger swallowed is made good', async () => {
    const id = await insertAutoSync(database.pool, crew);
    const pausing = await database.pool.connect();
    await pausing.query('begin isolation level repeatable read');
    await pausing.query('select 1');
    await sql('update outbox.jobs set priority = 1 where key = $1', [id]); // after the snapshot of the pause
    await setStatus(pausing, id, 'paused');
    await pausing.query('commit');
    pausing.release();
    expect(await errors()).toEqual([{ key: id, sqlstate: SQLSTATE.serializationFailure, healed: false }]);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await jobsOf(id)).toEqual(['reminder_24h cancelled']);
  });

  /** Resumes an auto sync whose capture fails. */
  async function resumeUncaptured(id: string): Promise<void> {
    await sql(`alter table outbox.jobs add constraint fails check (key <> '${id}') not valid`);
    await setStatus(database.pool, id, 'running');
    await sql('alter table outbox.jobs drop constraint fails');
  }

  it('a resume is planned, although the reminder before it was cancelled', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await setStatus(database.pool, id, 'paused');
    await resumeUncaptured(id);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await jobsOf(id)).toEqual(['reminder_24h cancelled', 'reminder_24h pending']);
  });

  it('a resume after the reminder went out gets a pause check, 48 h after the resume', async () => {
    const id = await insertAutoSync(database.pool, crew, { status: 'paused' });
    await sql('update public.auto_syncs set last_reminder_sent_at = now()');
    await resumeUncaptured(id);
    await sql(`update outbox.capture_errors set captured_at = now() - interval '5 hours'`);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await jobsOf(id)).toEqual(['pause_check_48h pending']);
    const asked = `select j.scheduled_at = e.captured_at + interval '48 hours' as "onTime"
      from outbox.jobs j join outbox.capture_errors e on e.key = j.key`;
    expect(await sql(asked)).toEqual([{ onTime: true }]);
  });

  it.each([
    ['open', `update outbox.jobs set created_at = now() - interval '1 day'`, 1],
    [
      'ended since',
      `update outbox.jobs set state = 'skipped', finished_at = now(), reason = 'everyone_responded', holds_key = false,
         created_at = now() - interval '1 day'`,
      1,
    ],
    [
      'ended since, but may have looked before the resume',
      `update outbox.jobs set state = 'skipped', finished_at = now(), reason = 'auto_sync_not_running', holds_key = false,
         created_at = now() - interval '1 day'`,
      2,
    ],
    [
      'ended before',
      `update outbox.jobs set state = 'skipped', finished_at = now() - interval '2 hours', reason = 'everyone_responded',
         holds_key = false, created_at = now() - interval '1 day'`,
      2,
    ],
  ])('a resume whose reminder is %s', async (_when, arrange, jobs) => {
    const id = await insertAutoSync(database.pool, crew);
    await sql(
      `insert into outbox.capture_errors (table_name, job_name, key, sqlstate, message, captured_at)
       values ('public.auto_syncs', 'reminder_24h', $1, '55P03', 'locked', now() - interval '1 hour')`,
      [id],
    );
    await sql(arrange);
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
    expect(await jobsOf(id)).toHaveLength(jobs);
    expect(await errors()).toMatchObject([{ healed: true }]);
    expect(await sweep()).toEqual(NOTHING);
  });

  it('more than a day ago is left to a person', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await setStatus(database.pool, id, 'paused');
    await resumeUncaptured(id);
    await sql(`update outbox.capture_errors set captured_at = now() - interval '24 hours 1 minute'`);
    expect(await sweep()).toEqual(NOTHING);
    expect(await errors()).toMatchObject([{ healed: false }]);
  });

  it('is not planned while the trigger is disabled, and stays in sight', async () => {
    const id = await insertAutoSync(database.pool, crew);
    await setStatus(database.pool, id, 'paused');
    await resumeUncaptured(id);
    await trigger('disable');
    expect(await sweep()).toEqual(NOTHING);
    expect(await errors()).toMatchObject([{ healed: false }]);
    await trigger('enable');
    expect(await sweep()).toEqual({ ...HEALED, recovered: 1 });
  });

  it('and fails again stays in sight, and does not stop the rest', async () => {
    const ids = [await insertAutoSync(database.pool, crew), await insertAutoSync(database.pool, crew)];
    for (const id of ids) {
      await setStatus(database.pool, id, 'paused');
      await resumeUncaptured(id);
    }
    const [good, bad] = ids;
    await sql(`alter table outbox.jobs add constraint fails check (key <> '${bad}') not valid`);
    expect(await sweep()).toMatchObject({ recovered: 1, failed: 1, error: expect.stringContaining('fails') as string });
    expect(await errors()).toMatchObject([
      { key: good, healed: true },
      { key: bad, healed: false },
    ]);
  });

  it('about something that is no auto sync is left to a person', async () => {
    await sql(`insert into outbox.capture_errors (table_name, job_name, key, sqlstate, message)
      values ('t', 'reminder_24h', 'rubbish', '1', ''), ('t', 'reminder_24h', null, '1', ''),
        ('t', 'gmb_sync', gen_random_uuid()::text, '1', '')`);
    expect(await sweep()).toEqual(NOTHING);
  });
});

describe('texts of a reminder that could not record them', () => {
  /** An auto sync whose one member was texted by a job that then ended as `state`. */
  async function texted(state: string): Promise<string> {
    const id = await insertAutoSync(database.pool, crew);
    await sql(
      `insert into outbox.effects (key, job_id, run, provider, state, request, reference, deadline_at, settled_at)
       select 'reminder:' || $1 || ':' || $2 || ':1', j.id, 1, 'twilio', 'confirmed', '{"body": "Hello"}', 'SM1', now(), now()
       from outbox.jobs j where j.key = $1`,
      [id, crew.contactIds[0]],
    );
    await sql(
      `update outbox.jobs set state = $2, holds_key = false, reason = 'why',
         finished_at = case when $2 <> 'published' then now() end
       where key = $1`,
      [id, state],
    );
    return id;
  }

  const record = () =>
    sql(`select
      (select count(*)::int from public.auto_sync_messages where provider_sid = 'SM1') as messages,
      (select count(*)::int from public.auto_syncs where last_reminder_sent_at is not null) as reminded,
      (select count(*)::int from outbox.jobs where name = 'pause_check_48h') as "pauseChecks"`);

  it.each(['failed', 'cancelled'])('are recorded and followed up once it has %s', async (state) => {
    await texted(state);
    expect(await sweep()).toEqual({ ...HEALED, recorded: 1 });
    expect(await record()).toEqual([{ messages: 1, reminded: 1, pauseChecks: 1 }]);
    expect(await sweep()).toEqual(NOTHING);
  });

  it('are recorded, and nothing follows, when the auto sync is paused', async () => {
    const id = await texted('failed');
    await trigger('disable', 'on_auto_sync_status_changed');
    await setStatus(database.pool, id, 'paused');
    expect(await sweep()).toEqual({ ...HEALED, recorded: 1 });
    expect(await record()).toEqual([{ messages: 1, reminded: 0, pauseChecks: 0 }]);
  });

  it.each(['published', 'completed', 'skipped'])('are its own to record when it is %s', async (state) => {
    await texted(state);
    expect(await sweep()).toEqual(NOTHING);
    expect(await record()).toEqual([{ messages: 0, reminded: 0, pauseChecks: 0 }]);
  });

  it('more than a day ago are left to a person', async () => {
    await texted('failed');
    await sql(`update outbox.effects set settled_at = now() - interval '25 hours'`);
    expect(await sweep()).toEqual(NOTHING);
  });
});

it('two sweeps at once: the second leaves it to the first', async () => {
  const id = await missed();
  await withTransaction(bridge, async (client: PoolClient) => {
    const { rows } = await client.query('select reminders.sweep() as swept');
    expect(rows).toEqual([{ swept: { ...HEALED, planned: 1 } }]);
    expect(await sweep()).toBeNull();
  });
  expect(await sweep()).toEqual(NOTHING);
  expect(await jobsOf(id)).toEqual(['reminder_24h pending']);
});

it.each(['outbox_worker', 'outbox_api', 'authenticated', 'anon', 'service_role'])(
  'is for the bridge alone: %s may not sweep',
  async (role) => {
    const client = await database.pool.connect();
    await client.query(`set role ${role}`);
    await expect(client.query('select reminders.sweep()')).rejects.toMatchObject({
      code: SQLSTATE.insufficientPrivilege,
    });
    client.release(true);
  },
);

import { SQLSTATE, withTransaction, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createCrew, insertAutoSync, type Crew } from './auto-sync.fixture.ts';

type Row = Record<string, unknown>;

let database: TestDatabase;
let crew: Crew;

beforeEach(async () => {
  database = await createTestDatabase();
  crew = await createCrew(database.pool, ['+15550001', '+15550002']);
});
afterEach(() => database.drop());

async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Row[]> {
  return (await db.query<Row>(sql, values)).rows;
}

const query = (sql: string, values?: unknown[]) => rowsOf(database.pool, sql, values);

/** As those who know the queries run them: with the schema in the search path. */
function as<T>(role: string, work: (db: PoolClient) => Promise<T>): Promise<T> {
  return withTransaction(database.pool, async (client) => {
    await client.query(`set local role ${role}`);
    await client.query('set local search_path = reminders, public');
    return work(client);
  });
}

const ask = (sql: string) => as('service_role', (db) => rowsOf(db, sql));

const ENDED = 'finished_at = now(), holds_key = false';
/** What claims and ends do to a row. */
const STATES = {
  pending: `state = 'pending'`,
  published: `state = 'published'`,
  'waiting for a retry': `state = 'published', attempt = 1, holds_key = false, last_error = 'Error: busy'`,
  active: `state = 'active', attempt = 1, run = outbox.new_run(), started_at = now(), holds_key = false,
    locked_by = 'w', locked_until = now() + interval '15 s'`,
  completed: `state = 'completed', ${ENDED}`,
  skipped: `state = 'skipped', reason = 'everyone_responded', ${ENDED}`,
  failed: `state = 'failed', last_error = 'Error: refused', ${ENDED}`,
  cancelled: `state = 'cancelled', reason = 'auto_sync_not_running', ${ENDED}`,
} as const;

type State = keyof typeof STATES;
const EVERY_STATE = Object.keys(STATES) as State[];

interface Job {
  id: string;
  autoSyncId: string;
}

/** The reminder of a new auto sync, or a pause check in its place, in this state, with these columns. */
async function addJob(state: State, columns: Row = {}, name = 'reminder_24h'): Promise<Job> {
  const autoSyncId = await insertAutoSync(database.pool, crew);
  await query(`update outbox.jobs set name = $2, ${STATES[state]} where key = $1`, [autoSyncId, name]);
  for (const [column, value] of Object.entries(columns)) {
    await query(`update outbox.jobs set ${column} = now() + $2::interval where key = $1`, [autoSyncId, value]);
  }
  const [row] = await query('select id from reminders.job_queue where sync_id = $1', [autoSyncId]);
  return { id: String(row?.id), autoSyncId };
}

const ids = (rows: Row[]) => rows.map(({ id }) => id).sort();
const stateOf = async ({ id }: Job) =>
  (await query('select state, reason from outbox.jobs where id = outbox.job_id($1)', [id]))[0];

describe('the old verification queries, unchanged', () => {
  it('find the table', async () => {
    const sql = `SELECT EXISTS (SELECT FROM information_schema.tables WHERE table_name = 'job_queue');`;
    expect(await ask(sql)).toEqual([{ exists: true }]);
  });

  it('find the trigger, and whether it is enabled', async () => {
    const name = `SELECT tgname FROM pg_trigger WHERE tgname = 'on_auto_sync_created';`;
    const enabled = `SELECT tgenabled FROM pg_trigger WHERE tgname = 'on_auto_sync_created';`;
    expect(await ask(name)).toEqual([{ tgname: 'on_auto_sync_created' }]);
    expect(await ask(enabled)).toEqual([{ tgenabled: 'O' }]);
    await query('alter table public.auto_syncs disable trigger on_auto_sync_created');
    expect(await ask(enabled)).toEqual([{ tgenabled: 'D' }]);
    await query('drop trigger on_auto_sync_created on public.auto_syncs');
    expect(await ask(name)).toEqual([]);
  });

  it('find the partial unique index, which keeps duplicates away by itself', async () => {
    const sql = `SELECT indexname FROM pg_indexes WHERE indexname = 'idx_job_queue_one_pending_per_type';`;
    expect(await ask(sql)).toEqual([{ indexname: 'idx_job_queue_one_pending_per_type' }]);

    await query('drop index outbox.jobs_one_holder_of_a_key');
    const { autoSyncId } = await addJob('published');
    const again = `insert into outbox.jobs (name, queue, key, holds_key, scheduled_at, due_at, max_attempts)
      values ($2, 'reminders', $1, true, now(), now(), 3)`;
    await expect(query(again, [autoSyncId, 'reminder_24h'])).rejects.toMatchObject({
      constraint: 'idx_job_queue_one_pending_per_type',
    });
    await query(again, [autoSyncId, 'pause_check_48h']);
  });

  it('see one pending reminder of an auto sync that has just been created', async () => {
    const [sync] = await ask(`
      INSERT INTO auto_syncs (
        organizer_id,
        crew_id,
        event_name,
        status,
        response_goal,
        timezone,
        started_at
      )
      VALUES (
        '${crew.organizerId}',
        '${crew.id}',
        'Test Event',
        'running',
        'everyone',
        'America/Los_Angeles',
        now()
      )
      RETURNING id;`);
    const jobs = await ask(`
      SELECT * FROM job_queue
      WHERE sync_id = '${String(sync?.id)}';`);
    expect(jobs).toMatchObject([
      { sync_id: sync?.id, job_type: 'reminder_24h', status: 'pending', processed_at: null, error_message: null },
    ]);
  });

  it('see what was texted and the pause check that follows it, and before that neither', async () => {
    const { id, autoSyncId } = await addJob('active');
    const messages = `
      SELECT * FROM auto_sync_messages
      WHERE auto_sync_id = '${autoSyncId}'
        AND message_type = 'reminder';`;
    const pauseChecks = `
      SELECT * FROM job_queue
      WHERE sync_id = '${autoSyncId}'
        AND job_type = 'pause_check_48h';`;
    expect([await ask(messages), await ask(pauseChecks)]).toEqual([[], []]);

    await query(
      `insert into outbox.effects (key, job_id, run, provider, state, request, reference, deadline_at, settled_at)
       select 'reminder:' || $1 || ':' || c || ':1', outbox.job_id($2), 1, 'twilio', 'confirmed', '{"body": "Come!"}', c,
         now(), now()
       from unnest($3::text[]) c`,
      [autoSyncId, id, crew.contactIds],
    );
    await query('select reminders.follow_up($1)', [autoSyncId]);
    expect((await ask(messages)).map((row) => row.contact_id).sort()).toEqual(crew.contactIds);
    expect(await ask(pauseChecks)).toMatchObject([{ sync_id: autoSyncId, status: 'pending' }]);
  });

  it('see that an auto sync was paused, and when', async () => {
    const autoSyncId = await insertAutoSync(database.pool, crew);
    const sql = `
      SELECT id, status, paused_at
      FROM auto_syncs
      WHERE id = '${autoSyncId}';`;
    expect(await ask(sql)).toEqual([{ id: autoSyncId, status: 'running', paused_at: null }]);
    await query('select reminders.pause($1)', [autoSyncId]);
    expect(await ask(sql)).toEqual([{ id: autoSyncId, status: 'paused', paused_at: expect.any(Date) as Date }]);
  });
});

describe('the old monitoring queries, unchanged', () => {
  it('count what is pending, by kind', async () => {
    for (const state of EVERY_STATE) await addJob(state);
    await addJob('published', {}, 'pause_check_48h');
    const rows = await ask(`
      SELECT COUNT(*), job_type
      FROM job_queue
      WHERE status = 'pending'
      GROUP BY job_type;`);
    expect(Object.fromEntries(rows.map((row) => [row.job_type, row.count]))).toEqual({
      ...{ reminder_24h: '3', pause_check_48h: '1' },
    });
  });

  it('list what is stuck: due for more than five minutes and not begun', async () => {
    const stuck: Job[] = [];
    for (const state of EVERY_STATE) {
      const job = await addJob(state, { scheduled_at: '-6 minutes' });
      if (['pending', 'published', 'waiting for a retry'].includes(state)) stuck.push(job);
      await addJob(state, { scheduled_at: '-4 minutes' });
    }
    const rows = await ask(`
      SELECT * FROM job_queue
      WHERE status = 'pending'
        AND scheduled_at < now() - interval '5 minutes';`);
    expect(ids(rows)).toEqual(ids(stuck.map(({ id }) => ({ id }))));
  });

  it('count every job by status and kind, with the oldest and the newest', async () => {
    for (const state of EVERY_STATE) await addJob(state, { created_at: '-2 hours' });
    await addJob('completed', { created_at: '-1 hour' });
    await addJob('failed', {}, 'pause_check_48h');
    const rows = await ask(`
      SELECT
        status,
        job_type,
        COUNT(*) as count,
        MIN(created_at) as oldest,
        MAX(created_at) as newest
      FROM job_queue
      GROUP BY status, job_type
      ORDER BY status, job_type;`);
    expect(rows.map(({ status, job_type: type, count }) => [status, type, count])).toEqual([
      ...[
        ['failed', 'pause_check_48h', '1'],
        ['failed', 'reminder_24h', '1'],
        ['pending', 'reminder_24h', '3'],
        ['processed', 'reminder_24h', '2'],
        ['processing', 'reminder_24h', '1'],
        ['skipped', 'reminder_24h', '2'],
      ],
    ]);
    const asked = `select min(created_at) as oldest, max(created_at) as newest from outbox.jobs where state = 'completed'`;
    expect(rows.filter(({ status }) => status === 'processed')).toMatchObject(await query(asked));
  });
});

const CLEAN_UP = `
  DELETE FROM job_queue
  WHERE status IN ('processed', 'skipped')
    AND processed_at < now() - interval '3 days';`;

/** Created long enough ago that the sweep does not look at it any more. */
const makeOld = () => query(`update public.auto_syncs set created_at = now() - interval '80 hours'`);

describe('the old clean-up', () => {
  it('removes what was processed or skipped more than three days ago, and nothing else', async () => {
    const removed: Job[] = [];
    const kept: Job[] = [];
    for (const state of EVERY_STATE) {
      const hasEnded = ['completed', 'skipped', 'failed', 'cancelled'].includes(state);
      const job = await addJob(state, hasEnded ? { finished_at: '-73 hours' } : {});
      (hasEnded && state !== 'failed' ? removed : kept).push(job);
      kept.push(await addJob(state, hasEnded ? { finished_at: '-71 hours' } : {}));
    }
    await makeOld();
    await ask(CLEAN_UP);
    expect(ids(await ask('SELECT * FROM job_queue'))).toEqual(kept.map(({ id }) => id).sort());
    const removals = await query('select outbox.job_uuid(job_id) as id from outbox.removals');
    expect(ids(removals)).toEqual(removed.map(({ id }) => id).sort());
  });

  it('takes the attempts along, and leaves the ledger of texts alone', async () => {
    const { id } = await addJob('completed', { finished_at: '-73 hours' });
    await makeOld();
    await query(
      `insert into outbox.attempts (job_id, run, attempt, started_at, outcome)
       values (outbox.job_id($1), 1, 1, now(), 'completed')`,
      [id],
    );
    await query(
      `insert into outbox.effects (key, job_id, run, provider, state, reference, deadline_at, settled_at)
       values ('reminder:a:b:1', outbox.job_id($1), 1, 'twilio', 'confirmed', 'SM1', now(), now())`,
      [id],
    );
    await ask(CLEAN_UP);
    expect(await query('select job_id from outbox.attempts')).toEqual([]);
    expect(await query('select key from outbox.effects')).toEqual([{ key: 'reminder:a:b:1' }]);
  });

  it('passes over what the bridge is pruning just now', async () => {
    await addJob('completed', { finished_at: '-73 hours' });
    await makeOld();
    const bridge = await database.pool.connect();
    await bridge.query('begin; delete from outbox.jobs');
    const cleaned = as('service_role', (db) => db.query(CLEAN_UP));
    await waitFor(async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
      expect(await query(waiting)).toHaveLength(1);
    });
    await bridge.query('commit');
    bridge.release();
    expect((await cleaned).rowCount).toBe(0);
  });
});

describe('any other delete from job_queue', () => {
  const remove = ({ id }: Job, role = 'service_role') =>
    as(role, (db) => rowsOf(db, 'delete from reminders.job_queue where id = $1 returning id', [id]));

  it.each(['pending', 'published', 'waiting for a retry'] as const)('cancels what is %s', async (state) => {
    const job = await addJob(state);
    expect(await remove(job)).toEqual([{ id: job.id }]);
    expect(await stateOf(job)).toEqual({ state: 'cancelled', reason: 'deleted' });
    expect(await query('select outbox.job_uuid(job_id) as id from outbox.removals')).toEqual([{ id: job.id }]);
  });

  it('asks the worker to stop what it runs', async () => {
    const job = await addJob('active');
    await remove(job);
    const asked = 'select state from outbox.jobs where cancel_requested_at is not null';
    expect(await query(asked)).toEqual([{ state: 'active' }]);
  });

  it('leaves the row of an ended reminder that the sweep would plan again without it', async () => {
    await query(`update outbox.captures set enabled_at = now() - interval '30 days'`);
    const job = await addJob('published');
    await remove(job);
    expect(await remove(job)).toEqual([]);
    expect(await query('select reminders.sweep() as swept')).toMatchObject([{ swept: { planned: 0 } }]);
    expect(await stateOf(job)).toEqual({ state: 'cancelled', reason: 'deleted' });
    await query(`update public.auto_syncs set status = 'stopped'`);
    expect(await remove(job)).toEqual([{ id: job.id }]);
  });

  it.each(['anon', 'authenticated'])('is refused to %s', async (role) => {
    await expect(remove(await addJob('completed'), role)).rejects.toMatchObject({
      code: SQLSTATE.insufficientPrivilege,
    });
  });
});

describe('an insert into job_queue enqueues', () => {
  const insert = (values: string, parameters: unknown[] = []) =>
    as('service_role', (db) => rowsOf(db, `insert into reminders.job_queue ${values} returning *`, parameters));

  it('the job of an auto sync, and gives its row back', async () => {
    const { autoSyncId } = await addJob('completed');
    const [row] = await insert(`(sync_id, job_type, scheduled_at) values ($1, 'pause_check_48h', '2030-01-01')`, [
      autoSyncId,
    ]);
    expect(row).toMatchObject({ sync_id: autoSyncId, status: 'pending', scheduled_at: new Date('2030-01-01') });
    expect(await query(`select payload, owner_id from outbox.jobs where name = 'pause_check_48h'`)).toEqual([
      { payload: { autoSyncId }, owner_id: crew.organizerId },
    ]);
  });

  it('nothing while one waits: that is the answer', async () => {
    const job = await addJob('published');
    expect(await insert(`(sync_id, job_type) values ($1, 'reminder_24h')`, [job.autoSyncId])).toMatchObject([
      { id: job.id },
    ]);
  });

  it.each([
    ['sync_id', `(job_type) values ('reminder_24h')`],
    ['sync_id', `(sync_id, job_type) values (gen_random_uuid(), 'reminder_24h')`],
    ['job_type', `(sync_id, job_type) select id, 'bubble_user_sync' from public.auto_syncs`],
    ['status', `(sync_id, job_type, status) select id, 'reminder_24h', 'processed' from public.auto_syncs`],
    ['created_at', `(sync_id, job_type, created_at) select id, 'reminder_24h', now() from public.auto_syncs`],
  ])('or says which field is wrong: %s', async (column, values) => {
    await addJob('completed');
    const asOwner = database.pool.query(`insert into reminders.job_queue ${values}`);
    await expect(asOwner).rejects.toMatchObject({ column, schema: 'reminders' });
  });
});

describe('an update of job_queue', () => {
  const update = ({ id }: Job, change: string) =>
    as('service_role', (db) => rowsOf(db, `update reminders.job_queue set ${change} where id = $1 returning *`, [id]));
  const readyAt = () => query('select scheduled_at, generation from outbox.ready order by generation desc limit 1');

  it('to pending redrives what failed', async () => {
    const job = await addJob('failed');
    expect(await update(job, `status = 'pending', processed_at = null`)).toMatchObject([{ status: 'pending' }]);
    expect(await query('select state, attempt, generation from outbox.jobs')).toEqual([
      { state: 'pending', attempt: 0, generation: 2 },
    ]);
  });

  it('to pending hands back what a dead worker holds, and not what a live one runs', async () => {
    const job = await addJob('active');
    await expect(update(job, `status = 'pending'`)).rejects.toMatchObject({ code: 'OB003', column: 'status' });
    await query(`update outbox.jobs set locked_until = now() - interval '1 s'`);
    expect(await update(job, `status = 'pending'`)).toMatchObject([{ status: 'pending' }]);
  });

  it.each(['failed', 'active'] as const)(
    'to pending at another time makes what was %s wait until then',
    async (state) => {
      const job = await addJob(state);
      await query(`update outbox.jobs set locked_until = now() - interval '1 s' where state = 'active'`);
      expect(await update(job, `status = 'pending', scheduled_at = '2030-01-01'`)).toMatchObject([
        { status: 'pending', scheduled_at: new Date('2030-01-01') },
      ]);
      expect(await query('select generation from outbox.jobs')).toEqual([{ generation: 3 }]);
      expect(await readyAt()).toEqual([{ scheduled_at: new Date('2030-01-01'), generation: 3 }]);
    },
  );

  it('of scheduled_at moves what waits, in BullMQ too', async () => {
    const job = await addJob('published');
    await update(job, `scheduled_at = '2030-01-01'`);
    expect(await readyAt()).toEqual([{ scheduled_at: new Date('2030-01-01'), generation: 2 }]);
    expect(await query('select outbox.job_uuid(job_id) as id from outbox.removals')).toEqual([{ id: job.id }]);
  });

  it.each([
    ['status', `status = 'processed'`],
    ['sync_id', `sync_id = gen_random_uuid()`],
    ['error_message', `error_message = 'none'`],
    ['scheduled_at', 'scheduled_at = null'],
  ])('says what cannot be written: %s', async (column, change) => {
    await expect(update(await addJob('failed'), change)).rejects.toMatchObject({ column, schema: 'reminders' });
  });

  it('of a row that has ended well changes nothing', async () => {
    const job = await addJob('completed');
    await expect(update(job, `status = 'pending'`)).rejects.toMatchObject({ code: 'OB004' });
  });

  it.each(['anon', 'authenticated'])('is refused to %s', async (role) => {
    await addJob('failed');
    const change = as(role, (db) => db.query(`update reminders.job_queue set status = 'pending'`));
    await expect(change).rejects.toMatchObject({ code: SQLSTATE.insufficientPrivilege });
  });
});

describe('the old rollback', () => {
  const asOwner = (sql: string) =>
    withTransaction(database.pool, async (db) => {
      await db.query('set local search_path = reminders, public');
      await db.query(sql);
    });

  it('takes trigger and function away: a new auto sync has no job, also not by the sweep', async () => {
    await asOwner(`
      DROP TRIGGER IF EXISTS on_auto_sync_created ON auto_syncs;
      DROP FUNCTION IF EXISTS schedule_first_reminder();`);
    const autoSyncId = await insertAutoSync(database.pool, crew);
    expect(await query('select reminders.sweep() as swept')).toMatchObject([{ swept: { planned: 0, failed: 0 } }]);
    expect(await query('select id from reminders.job_queue where sync_id = $1', [autoSyncId])).toEqual([]);
  });

  it('does not take the history away', async () => {
    const job = await addJob('completed');
    await expect(asOwner('DROP TABLE IF EXISTS job_queue CASCADE;')).rejects.toThrow('"job_queue" is not a table');
    expect(await stateOf(job)).toMatchObject({ state: 'completed' });
  });
});

test('no name of this family hides a table of the host', async () => {
  const sql = `
    select c.relname from pg_class c join pg_class h on h.relname = c.relname and h.relnamespace = 'public'::regnamespace
    where c.relnamespace = 'reminders'::regnamespace`;
  expect(await query(sql)).toEqual([]);
});

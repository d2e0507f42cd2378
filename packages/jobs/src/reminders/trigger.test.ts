import { randomUUID } from 'node:crypto';
import { HOUR, SQLSTATE, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createCrew, insertAutoSync, insertAutoSyncs, respond, setStatus, type Crew } from './auto-sync.fixture.ts';
import { sendReminder } from './job.ts';

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

async function setup(phones: (string | null)[] = []) {
  const { pool } = database;
  return { pool, crew: await createCrew(pool, phones) };
}

/** A connection of its own with a transaction open; what the test leaves open is rolled back. */
async function begin(): Promise<PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  await client.query('begin');
  return client;
}

async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Record<string, unknown>[]> {
  const { rows } = await db.query<Record<string, unknown>>(sql, values);
  return rows;
}

/** The reminders of these auto syncs, with whether the bridge will find them. */
function remindersOf(ids: string[], db: Queryable = database.pool): Promise<Record<string, unknown>[]> {
  return rowsOf(
    db,
    /* sql */ `
    select j.key, j.owner_id, j.payload, j.state, j.holds_key, r.job_id is not null as ready
    from outbox.jobs j left join outbox.ready r on r.job_id = j.id and r.generation = j.generation
    where j.name = 'reminder_24h' and j.payload ->> 'autoSyncId' = any ($1)
    order by j.key`,
    [ids],
  );
}

function captureErrorsOf(ids: string[]): Promise<Record<string, unknown>[]> {
  return rowsOf(
    database.pool,
    'select table_name, job_name, key, sqlstate, message from outbox.capture_errors where key = any ($1) order by key',
    [ids],
  );
}

/** Acts as a role of the host application, for a user of it if one is named, in a transaction that is rolled back. */
async function actAs<T>(role: string, user: string | undefined, work: (db: Queryable) => Promise<T>): Promise<T> {
  const client = await begin();
  const claims = JSON.stringify(user === undefined ? { role } : { role, sub: user });
  await client.query(`select set_config('request.jwt.claims', $1, true)`, [claims]);
  await client.query(`set local role ${role}`);
  const result = await work(client);
  await client.query('rollback');
  return result;
}

const refused = { code: SQLSTATE.insufficientPrivilege };

describe('an insert of an auto sync', () => {
  test('leaves exactly one reminder, which sendReminder can read, and which belongs to the organizer', async () => {
    const { pool, crew } = await setup();
    const id = await insertAutoSync(pool, crew);
    const reminders = await remindersOf([id]);
    const payload = sendReminder.payload.parse(reminders[0]?.payload);
    expect(payload).toEqual({ autoSyncId: id });
    expect(reminders).toEqual([
      {
        ...{ key: sendReminder.key(payload), owner_id: crew.organizerId, payload },
        ...{ state: 'pending', holds_key: true, ready: true },
      },
    ]);
  });

  test('makes it due exactly 24 h after its own now(), whatever the row says about itself', async () => {
    const { crew } = await setup();
    const client = await begin();
    await client.query(
      /* sql */ `
      insert into public.auto_syncs (organizer_id, crew_id, event_name, created_at, started_at)
      values ($1, $2, 'Summer tour', '2020-01-01', '2020-01-02')`,
      [crew.organizerId, crew.id],
    );
    const asked = `
      select extract(epoch from scheduled_at - now())::float8 * 1000 as wait, due_at = scheduled_at as due
      from outbox.jobs where owner_id = $1`;
    expect(await rowsOf(client, asked, [crew.organizerId])).toEqual([{ wait: 24 * HOUR, due: true }]);
  });

  test('that is rolled back leaves none', async () => {
    const { crew } = await setup();
    const client = await begin();
    const id = await insertAutoSync(client, crew);
    expect(await remindersOf([id], client)).toHaveLength(1);
    await client.query('rollback');
    expect(await remindersOf([id])).toEqual([]);
  });

  test.each(['paused', 'stopped', 'completed'] as const)('that is %s leaves none', async (status) => {
    const { pool, crew } = await setup();
    const id = await insertAutoSync(pool, crew, { status });
    expect(await remindersOf([id])).toEqual([]);
    expect(await captureErrorsOf([id])).toEqual([]);
  });

  test('of several rows leaves one each for those that run', async () => {
    const { pool, crew } = await setup();
    const wishes = Array.from(
      { length: 20 },
      (_, n) => ({ id: randomUUID(), status: n % 4 ? 'running' : 'paused' }) as const,
    );
    const ids = await insertAutoSyncs(pool, crew, [...wishes]);
    const running = wishes.filter(({ status }) => status === 'running').map(({ id }) => id);
    expect((await remindersOf(ids)).map(({ key }) => key)).toEqual(running.sort());
  });

  test('and another in the same transaction leave one each', async () => {
    const { crew } = await setup();
    const client = await begin();
    const ids = [await insertAutoSync(client, crew), await insertAutoSync(client, crew)];
    await client.query('commit');
    expect((await remindersOf(ids)).map(({ key }) => key)).toEqual(ids.sort());
  });

  test('by a signed-in user works: the trigger does not need rights of theirs', async () => {
    const { crew } = await setup();
    const id = randomUUID();
    const client = await begin();
    await client.query(`select set_config('request.jwt.claims', $1, true)`, [
      JSON.stringify({ sub: crew.organizerId, role: 'authenticated' }),
    ]);
    await client.query('set local role authenticated');
    await insertAutoSync(client, crew, { id });
    await client.query('commit');
    expect(await remindersOf([id])).toMatchObject([{ key: id, owner_id: crew.organizerId, ready: true }]);
    expect(await captureErrorsOf([id])).toEqual([]);
  });
});

describe('an update of an auto sync', () => {
  const statesOf = async (id: string) => (await remindersOf([id])).map(({ state }) => state);

  test('that leaves its status alone leaves its reminder alone', async () => {
    const { pool, crew } = await setup();
    const [running, paused] = [
      await insertAutoSync(pool, crew),
      await insertAutoSync(pool, crew, { status: 'paused' }),
    ];
    await pool.query(`update public.auto_syncs set event_name = 'Winter tour' where id = any ($1)`, [
      [running, paused],
    ]);
    expect(await statesOf(running)).toEqual(['pending']);
    expect(await statesOf(paused)).toEqual([]);
  });

  test.each(['paused', 'stopped', 'completed'] as const)(
    'to %s cancels its reminder, in its transaction',
    async (status) => {
      const { pool, crew } = await setup();
      const [id, other] = [await insertAutoSync(pool, crew), await insertAutoSync(pool, crew)];
      await setStatus(pool, id, status);
      expect(await statesOf(id)).toEqual(['cancelled']);
      expect(await statesOf(other)).toEqual(['pending']);
      const removals = await pool.query(
        `select 1 from outbox.removals r join outbox.jobs j on j.id = r.job_id where j.key = $1`,
        [id],
      );
      expect(removals.rows).toHaveLength(1);
    },
  );

  test('back to running plans a reminder 24 h after its creation, or now if that is past', async () => {
    const { pool, crew } = await setup();
    const [late, early] = [
      await insertAutoSync(pool, crew, { status: 'paused' }),
      await insertAutoSync(pool, crew, { status: 'paused' }),
    ];
    await pool.query(`update public.auto_syncs set created_at = now() - interval '30 hours' where id = $1`, [late]);
    await setStatus(pool, late, 'running');
    await setStatus(pool, early, 'running');
    const { rows } = await pool.query(
      `select j.scheduled_at = j.created_at as "isNow", j.scheduled_at = s.created_at + interval '24 hours' as "isOnTime"
       from outbox.jobs j join public.auto_syncs s on s.id::text = j.key where s.id = any ($1) order by s.id = $2`,
      [[late, early], early],
    );
    expect(rows).toEqual([
      { isNow: true, isOnTime: false },
      { isNow: false, isOnTime: true },
    ]);
  });

  test('back to running after the reminder went out plans a pause check only', async () => {
    const { pool, crew } = await setup();
    const id = await insertAutoSync(pool, crew, { status: 'paused' });
    await pool.query(`update public.auto_syncs set last_reminder_sent_at = now() where id = $1`, [id]);
    await setStatus(pool, id, 'running');
    const { rows } = await pool.query(`select name from outbox.jobs where key = $1`, [id]);
    expect(rows).toEqual([{ name: 'pause_check_48h' }]);
  });

  test('of its own job does not cancel that job', async () => {
    const { pool, crew } = await setup();
    const id = await insertAutoSync(pool, crew);
    const client = await begin();
    await client.query(
      `select set_config('outbox.current_job', (select j.id::text from outbox.jobs j where j.key = $1), true)`,
      [id],
    );
    await setStatus(client, id, 'paused');
    const { rows } = await client.query(`select state from outbox.jobs where key = $1`, [id]);
    expect(rows).toEqual([{ state: 'pending' }]);
    await client.query('rollback');
    expect(await statesOf(id)).toEqual(['pending']);
    await setStatus(pool, id, 'paused');
    expect(await statesOf(id)).toEqual(['cancelled']);
  });
});

test('a deleted auto sync has no open job, and what is left of it belongs to nobody', async () => {
  const { pool, crew } = await setup();
  const id = await insertAutoSync(pool, crew);
  await pool.query(`delete from public.auto_syncs where id = $1`, [id]);
  expect(await remindersOf([id])).toMatchObject([{ state: 'cancelled', owner_id: null }]);
});

describe('what cannot be captured', () => {
  test('does not fail the insert, and is set aside with its SQLSTATE, one line per auto sync', async () => {
    const { pool, crew } = await setup();
    const rename = 'update outbox.job_types set name = $2 where name = $1';
    await pool.query(rename, ['reminder_24h', 'hidden']);
    const ids = await insertAutoSyncs(pool, crew, [{}, {}, { status: 'paused' }]).finally(() =>
      pool.query(rename, ['hidden', 'reminder_24h']),
    );
    const { rows } = await pool.query('select 1 from public.auto_syncs where id = any ($1)', [ids]);
    expect(rows).toHaveLength(3);
    expect(await remindersOf(ids)).toEqual([]);
    const running = ids.slice(0, 2).sort();
    expect(await captureErrorsOf(ids)).toEqual(
      running.map((key) => ({
        ...{ table_name: 'public.auto_syncs', job_name: 'reminder_24h', key },
        ...{ sqlstate: SQLSTATE.unknownJob, message: 'There is no job named "reminder_24h".' },
      })),
    );
  });

  test('one bad row does not take the others of its statement with it', async () => {
    const { pool, crew } = await setup();
    const [good, bad] = [randomUUID(), randomUUID()];
    await pool.query(`alter table outbox.jobs add constraint not_this_one check (key <> '${bad}')`);
    await insertAutoSyncs(pool, crew, [{ id: bad }, { id: good }]).finally(() =>
      pool.query('alter table outbox.jobs drop constraint not_this_one'),
    );
    expect(await remindersOf([good, bad])).toMatchObject([{ key: good }]);
    expect(await captureErrorsOf([good, bad])).toMatchObject([{ key: bad, sqlstate: '23514' }]);
  });

  test('a key that another transaction holds keeps the insert waiting for a moment only, and is set aside', async () => {
    const { crew } = await setup();
    const [held, free] = [randomUUID(), randomUUID()];
    const holder = await begin();
    await holder.query(`select outbox.enqueue('reminder_24h', key => $1)`, [held]);

    const business = await begin();
    // Only so that an endless wait is red soon.
    await business.query(`set local statement_timeout = '5s'`);
    await insertAutoSyncs(business, crew, [{ id: held }, { id: free }]);
    await business.query('commit');
    await holder.query('rollback');

    expect(await remindersOf([held, free])).toMatchObject([{ key: free }]);
    expect(await captureErrorsOf([held, free])).toMatchObject([{ key: held, sqlstate: SQLSTATE.lockNotAvailable }]);
  });

  test('that moment is 200 ms per row, and the setting of the business transaction is its own again afterwards', async () => {
    const { crew } = await setup();
    const asked = `select proconfig from pg_proc where oid = 'reminders.schedule_first_reminder'::regproc`;
    expect(await rowsOf(database.pool, asked)).toEqual([
      { proconfig: expect.arrayContaining(['lock_timeout=200ms']) as string[] },
    ]);
    const business = await begin();
    await business.query(`set local lock_timeout = '7s'`);
    await insertAutoSync(business, crew);
    expect(await rowsOf(business, 'show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
  });
});

describe('reminders.standings', () => {
  async function responsesNeeded(crew: Crew, metadata: unknown): Promise<unknown> {
    const id = await insertAutoSync(database.pool, crew, { responseGoal: 'critical_mass', metadata });
    const asked = 'select responses_needed::int as n from reminders.standings where id = $1';
    return (await rowsOf(database.pool, asked, [id]))[0]?.n;
  }

  test('a goal of everyone needs every member, whatever the metadata say', async () => {
    const { pool, crew } = await setup(['1', '2', '3']);
    const id = await insertAutoSync(pool, crew, { metadata: { critical_mass: 1 } });
    const asked = `
      select response_goal, member_count::int as members, responses_needed::int as needed
      from reminders.standings where id = $1`;
    expect(await rowsOf(pool, asked, [id])).toEqual([{ response_goal: 'everyone', members: 3, needed: 3 }]);
  });

  test.each([
    ['a number', { critical_mass: 2 }],
    ['a number as text', { critical_mass: '2' }],
  ])('a critical mass needs as many as the metadata say: %s', async (_title, metadata) => {
    const { crew } = await setup(['1', '2', '3', '4', '5']);
    expect(await responsesNeeded(crew, metadata)).toBe(2);
  });

  test.each([
    [0, 0],
    [1, 1],
    [4, 2],
    [5, 3],
  ])('of %i members half are needed, rounded up (%i), when the metadata say nothing', async (members, needed) => {
    const { crew } = await setup(Array.from({ length: members }, (_, n) => String(n)));
    expect(await responsesNeeded(crew, {})).toBe(needed);
  });

  test.each(['many', '', -1, 1.5, 99_999_999_999, null, true, {}, [2]])(
    'a critical mass of %j is none: half are needed, and the view does not break',
    async (critical_mass) => {
      const { crew } = await setup(['1', '2', '3']);
      expect(await responsesNeeded(crew, { critical_mass })).toBe(2);
    },
  );

  test.each([[['critical_mass']], ['critical_mass'], [7]])(
    'metadata that are no object (%j) say nothing',
    async (metadata) => {
      const { crew } = await setup(['1', '2', '3']);
      expect(await responsesNeeded(crew, metadata)).toBe(2);
    },
  );

  test('a member who answers twice counts once; strangers and answers to another auto sync count not at all', async () => {
    const { pool, crew } = await setup(['1', '2', '3']);
    const { contactIds: strangers } = await createCrew(pool, ['4']);
    const [first, second, third] = crew.contactIds;
    const [id = '', other = ''] = await insertAutoSyncs(pool, crew, [{}, {}]);
    await respond(pool, id, [first, first, second, ...strangers]);
    await respond(pool, other, [third]);
    const asked = 'select response_count::int as n from reminders.standings where id = $1';
    expect(await rowsOf(pool, asked, [id])).toEqual([{ n: 2 }]);
  });
});

describe('reminders.recipients', () => {
  const RECIPIENTS =
    'select contact_id, name, phone from reminders.recipients where auto_sync_id = $1 order by contact_id';

  test('are the members who have not answered this auto sync', async () => {
    const { pool, crew } = await setup(['+15550001', '+15550002', '+15550003']);
    const [id = '', other = ''] = await insertAutoSyncs(pool, crew, [{}, {}]);
    const [first, second, third] = crew.contactIds;
    await respond(pool, id, [second]);
    await respond(pool, other, [first]);
    expect(await rowsOf(pool, RECIPIENTS, [id])).toEqual([
      { contact_id: first, name: 'Member 1', phone: '+15550001' },
      { contact_id: third, name: 'Member 3', phone: '+15550003' },
    ]);
  });

  test.each([null, '', '   '])('a phone of %j is none', async (phone) => {
    const { pool, crew } = await setup([phone]);
    const id = await insertAutoSync(pool, crew);
    expect(await rowsOf(pool, RECIPIENTS, [id])).toMatchObject([{ phone: null }]);
  });

  test('blanks around a phone are no part of it', async () => {
    const { pool, crew } = await setup([' +15550001 ']);
    const id = await insertAutoSync(pool, crew);
    expect(await rowsOf(pool, RECIPIENTS, [id])).toMatchObject([{ phone: '+15550001' }]);
  });
});

describe('the texts of a reminder', () => {
  /** An auto sync of whose members the ledger knows one text each, in `states`. */
  async function withEffects(states: string[]) {
    const { pool, crew } = await setup(states.map((_, n) => String(n)));
    const autoSyncId = await insertAutoSync(pool, crew);
    for (const [n, state] of states.entries()) {
      const contactId = crew.contactIds[n] ?? '';
      await pool.query(
        /* sql */ `
        insert into outbox.effects (
          key, job_id, run, provider, state, request, reference, reason, deadline_at, settled_at
        )
        values (
          $1, 1, 1, 'twilio', $2, $3, case when $2 = 'confirmed' then $4 end,
          case when $2 in ('rejected', 'unknown') then 'why' end, now(),
          case when $2 <> 'started' then timestamptz '2031-02-03 04:05:06Z' end
        )`,
        [
          `reminder:${autoSyncId}:${contactId}:1`,
          state,
          JSON.stringify({ contactId, body: `Text ${n}` }),
          `SM-${contactId}`,
        ],
      );
    }
    const record = async () =>
      (await rowsOf(pool, 'select reminders.record_messages($1)::int as sent', [autoSyncId]))[0]?.sent;
    const messages = () =>
      rowsOf(
        pool,
        /* sql */ `
        select contact_id, message_type, body, provider_sid, sent_at
        from public.auto_sync_messages where auto_sync_id = $1 order by body`,
        [autoSyncId],
      );
    return { pool, autoSyncId, contactIds: crew.contactIds, record, messages };
  }

  test('are recorded once when the end of the reminder and a pause meet', async () => {
    const { pool, autoSyncId, messages } = await withEffects(['confirmed']);
    const ending = await begin();
    await ending.query('select reminders.record_messages($1)', [autoSyncId]);
    const pausing = setStatus(pool, autoSyncId, 'paused');
    await waitFor(async () => {
      const blocked = `select 1 from pg_locks l join pg_stat_activity a using (pid)
        where not l.granted and a.datname = current_database()`;
      expect(await rowsOf(pool, blocked, [])).not.toEqual([]);
    });
    await ending.query('commit');
    await pausing;
    expect(await messages()).toHaveLength(1);
  });

  test('are listed with what the ledger says, whatever it says', async () => {
    const { pool, autoSyncId, contactIds } = await withEffects(['confirmed', 'rejected', 'unknown', 'started']);
    const asked =
      'select contact_id, state, reference, reason from reminders.texts where auto_sync_id = $1 order by key';
    expect(await rowsOf(pool, asked, [autoSyncId])).toEqual([
      { contact_id: contactIds[0], state: 'confirmed', reference: `SM-${contactIds[0]}`, reason: null },
      { contact_id: contactIds[1], state: 'rejected', reference: null, reason: 'why' },
      { contact_id: contactIds[2], state: 'unknown', reference: null, reason: 'why' },
      { contact_id: contactIds[3], state: 'started', reference: null, reason: null },
    ]);
  });

  test('are recorded when they were sent, and otherwise not', async () => {
    const { contactIds, record, messages } = await withEffects(['confirmed', 'rejected', 'unknown', 'started']);
    expect(await record()).toBe(1);
    expect(await messages()).toEqual([
      {
        ...{ contact_id: contactIds[0], message_type: 'reminder', body: 'Text 0', provider_sid: `SM-${contactIds[0]}` },
        sent_at: new Date('2031-02-03T04:05:06Z'),
      },
    ]);
  });

  test('are recorded once, and counted every time', async () => {
    const { record, messages } = await withEffects(['confirmed', 'confirmed']);
    expect([await record(), await record()]).toEqual([2, 2]);
    expect(await messages()).toHaveLength(2);
  });

  test('of another auto sync are none of this one', async () => {
    const [one, other] = [await withEffects(['confirmed']), await withEffects(['confirmed'])];
    expect(await one.record()).toBe(1);
    expect(await one.messages()).toMatchObject([{ contact_id: one.contactIds[0] }]);
    expect(await other.messages()).toEqual([]);
  });
});

describe('reminders.mark_reminded', () => {
  test('notes the instant for a running auto sync, and leaves any other alone', async () => {
    const { pool, crew } = await setup();
    const [running, paused] = await insertAutoSyncs(pool, crew, [{}, { status: 'paused' }]);
    const mark = 'select reminders.mark_reminded($1) as marked, now() as at';
    const [marked] = await rowsOf(pool, mark, [running]);
    expect(marked).toMatchObject({ marked: true });
    expect(await rowsOf(pool, mark, [paused])).toMatchObject([{ marked: false }]);
    const asked = 'select last_reminder_sent_at as at from public.auto_syncs where id = any ($1) order by status';
    expect(await rowsOf(pool, asked, [[running, paused]])).toEqual([{ at: marked?.at }, { at: null }]);
  });
});

describe('reminders.job_queue', () => {
  /** Rows of each state for one owner, of the given job. */
  async function rowsInEveryState(ownerId: string, name = 'reminder_24h') {
    const autoSyncId = randomUUID();
    await database.pool.query(
      /* sql */ `
      insert into outbox.jobs (
        name, queue, key, owner_id, payload, state, max_attempts, scheduled_at, due_at, reason, last_error,
        locked_until, finished_at
      )
      select
        $1, 'reminders', s.key, $2, jsonb_build_object('autoSyncId', $3::uuid), s.state, 3, '2031-01-01Z', '2031-01-01Z',
        s.reason, s.last_error, case when s.state = 'active' then now() end,
        case when s.state in ('completed', 'skipped', 'failed', 'cancelled') then timestamptz '2031-01-02Z' end
      from (
        values
          ('1', 'pending', null, null),
          ('2', 'published', null, null),
          ('3', 'published', null, 'Error: busy'),
          ('4', 'active', null, null),
          ('5', 'completed', null, null),
          ('6', 'skipped', 'everyone_responded', null),
          ('7', 'failed', null, 'Error: refused'),
          ('8', 'cancelled', 'auto_sync_paused', null)
      ) as s (key, state, reason, last_error)`,
      [name, ownerId, autoSyncId],
    );
    return autoSyncId;
  }

  test("tells each state in the application's words, with when and why it ended", async () => {
    const autoSyncId = await rowsInEveryState(randomUUID());
    const asked = `
      select q.status, q.processed_at, q.error_message
      from reminders.job_queue q join outbox.jobs j on outbox.job_uuid(j.id) = q.id
      where q.sync_id = $1
      order by j.key`;
    const ended = new Date('2031-01-02T00:00:00Z');
    expect(await rowsOf(database.pool, asked, [autoSyncId])).toEqual([
      { status: 'pending', processed_at: null, error_message: null },
      { status: 'pending', processed_at: null, error_message: null },
      { status: 'pending', processed_at: null, error_message: 'Error: busy' },
      { status: 'processing', processed_at: null, error_message: null },
      { status: 'processed', processed_at: ended, error_message: null },
      { status: 'skipped', processed_at: ended, error_message: 'everyone_responded' },
      { status: 'failed', processed_at: ended, error_message: 'Error: refused' },
      { status: 'skipped', processed_at: ended, error_message: 'auto_sync_paused' },
    ]);
  });

  test('has the columns the application reads, and shows both jobs of the family and no other', async () => {
    const owner = randomUUID();
    const ids = [await rowsInEveryState(owner), await rowsInEveryState(owner, 'pause_check_48h')];
    await rowsInEveryState(owner, 'gmb_sync');
    const { fields } = await database.pool.query('select * from reminders.job_queue limit 1');
    expect(fields.map(({ name }) => name)).toEqual([
      ...['id', 'sync_id', 'job_type', 'scheduled_at', 'status', 'created_at', 'processed_at', 'error_message'],
    ]);
    const asked = `
      select q.sync_id, q.job_type, count(*)::int as n
      from reminders.job_queue q join outbox.jobs j on outbox.job_uuid(j.id) = q.id
      where j.owner_id = $1
      group by 1, 2
      order by 2 desc`;
    expect(await rowsOf(database.pool, asked, [owner])).toEqual([
      { sync_id: ids[0], job_type: 'reminder_24h', n: 8 },
      { sync_id: ids[1], job_type: 'pause_check_48h', n: 8 },
    ]);
  });

  test('a payload without a proper auto sync id breaks nothing', async () => {
    const owner = randomUUID();
    await database.pool.query(
      `select outbox.enqueue('reminder_24h', payload => '{"autoSyncId": "rubbish"}', owner_id => $1)`,
      [owner],
    );
    const asked = (db: Queryable) => rowsOf(db, 'select sync_id, status from reminders.job_queue');
    expect(await actAs('authenticated', owner, asked)).toEqual([{ sync_id: null, status: 'pending' }]);
  });

  describe('who may read it', () => {
    const syncIds = async (db: Queryable) =>
      (await rowsOf(db, 'select distinct sync_id from reminders.job_queue')).map(({ sync_id }) => sync_id);

    test('a signed-in user reads their own rows and nobody else’s', async () => {
      const [owner, other] = [randomUUID(), randomUUID()];
      const own = await rowsInEveryState(owner);
      await rowsInEveryState(other);
      expect(await actAs('authenticated', owner, syncIds)).toEqual([own]);
      expect(await actAs('authenticated', randomUUID(), syncIds)).toEqual([]);
    });

    test('a signed-in user whose request names nobody reads nothing', async () => {
      await rowsInEveryState(randomUUID());
      expect(await actAs('authenticated', undefined, syncIds)).toEqual([]);
    });

    test('nobody signed in reads nothing at all', async () => {
      await expect(actAs('anon', undefined, syncIds)).rejects.toMatchObject(refused);
    });

    test('the service role reads everything', async () => {
      const ids = [await rowsInEveryState(randomUUID()), await rowsInEveryState(randomUUID())];
      expect(await actAs('service_role', undefined, syncIds)).toEqual(expect.arrayContaining(ids));
    });

    test.each([
      'select locked_by from outbox.jobs',
      'select result from outbox.jobs',
      `update outbox.jobs set state = 'failed'`,
      'delete from outbox.jobs',
      'select 1 from outbox.effects',
      'select 1 from outbox.capture_errors',
      `select outbox.enqueue('reminder_24h')`,
      'select reminders.mark_reminded(gen_random_uuid())',
      'select 1 from reminders.recipients',
    ])('a signed-in user gets no further: %s', async (sql) => {
      await expect(actAs('authenticated', randomUUID(), (db) => rowsOf(db, sql))).rejects.toMatchObject(refused);
    });
  });
});

describe('the worker', () => {
  test.each([
    'select 1 from public.contacts',
    'select 1 from public.auto_sync_responses',
    'insert into public.auto_sync_messages default values',
    `update public.auto_syncs set status = 'paused'`,
  ])("does not touch the host application's tables itself: %s", async (sql) => {
    await expect(actAs('outbox_worker', undefined, (db) => rowsOf(db, sql))).rejects.toMatchObject(refused);
  });

  test('reads what it needs through the views of the family', async () => {
    const { pool, crew } = await setup(['+15550001']);
    const id = await insertAutoSync(pool, crew);
    const read = (db: Queryable) =>
      rowsOf(
        db,
        /* sql */ `
        select s.organizer_id, r.phone
        from reminders.standings s join reminders.recipients r on r.auto_sync_id = s.id
        where s.id = $1`,
        [id],
      );
    expect(await actAs('outbox_worker', undefined, read)).toEqual([
      { organizer_id: crew.organizerId, phone: '+15550001' },
    ]);
  });
});

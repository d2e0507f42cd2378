import { randomUUID } from 'node:crypto';
import { createPool, SQLSTATE, type Pool, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createIntegration, insertSchedule, insertSchedules, type Integration } from './schedules.fixture.ts';

let database: TestDatabase;
let worker: Pool;
let mine: Integration;
let scheduleId: string;

beforeAll(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_worker', applicationName: 'access', max: 1 };
  worker = createPool({ ...options, onError: () => undefined });
});
beforeEach(async () => {
  mine = await createIntegration(database.pool, { apiKey: 'key-of-mine' });
  scheduleId = await insertSchedule(database.pool, mine.id, { everyMinutes: 5 });
});
afterAll(async () => {
  await worker.end();
  await database.drop();
});

/** Acts as a role of the host application, for a user of it if one is named, in a transaction that is rolled back. */
async function actAs<T>(role: string, user: string | undefined, work: (db: Queryable) => Promise<T>): Promise<T> {
  const client: PoolClient = await database.pool.connect();
  try {
    await client.query('begin');
    const claims = JSON.stringify(user === undefined ? { role } : { role, sub: user });
    await client.query(`select set_config('request.jwt.claims', $1, true)`, [claims]);
    await client.query(`set local role ${role}`);
    await client.query('set local search_path = golioth, public');
    return await work(client);
  } finally {
    await client.query('rollback');
    client.release();
  }
}

const refused = { code: SQLSTATE.insufficientPrivilege };
const RUN_NOW = 'select golioth.run_now($1)';

/** All that a role may call in the schema golioth: what is not named here is refused. */
const ALLOWED: Record<string, string[]> = {
  outbox_bridge: ['sweep'],
  outbox_worker: ['begin_run', 'record_devices', 'record_failure', 'record_sync'],
  outbox_api: [],
  service_role: ['run_now'],
  authenticated: ['run_now'],
  anon: [],
};

test.each(Object.entries(ALLOWED))('%s may call %j of this family and nothing else', async (role, functions) => {
  const { rows } = await database.pool.query<{ name: string }>(
    `select p.proname as name from pg_proc p
     where p.pronamespace = 'golioth'::regnamespace and p.prorettype <> 'trigger'::regtype
       and has_function_privilege($1, p.oid, 'execute')
     order by p.proname`,
    [role],
  );
  expect(rows.map(({ name }) => name)).toEqual(functions);
});

test('the worker reads where devices are read, and nobody signed in does', async () => {
  const sources = 'select api_key from golioth.sources where integration_id = $1';
  expect((await worker.query(sources, [mine.id])).rows).toEqual([{ api_key: 'key-of-mine' }]);
  for (const role of ['anon', 'authenticated', 'service_role', 'outbox_bridge', 'outbox_api']) {
    await expect(actAs(role, mine.userId, (db) => db.query(sources, [mine.id]))).rejects.toMatchObject(refused);
  }
});

test('the worker touches no table of the host itself', async () => {
  await expect(worker.query('select from public.integrations')).rejects.toMatchObject(refused);
  await expect(worker.query('update public.auto_sync_schedules set enabled = false')).rejects.toMatchObject(refused);
});

test('a job never holds an API key, nor does what is recorded about it', async () => {
  const { rows } = await database.pool.query('select from outbox.jobs j where j::text like $1', ['%key-of-mine%']);
  expect(rows).toEqual([]);
});

describe('a user', () => {
  test('runs their own schedule and integration now, and sees the job', async () => {
    await actAs('authenticated', mine.userId, async (db) => {
      await db.query(RUN_NOW, [mine.id]);
      await db.query(RUN_NOW, [scheduleId]);
      const { rows } = await db.query(
        `select key, state, scheduled_at <= clock_timestamp() as due from outbox.jobs order by key = $1`,
        [mine.id],
      );
      expect(rows).toEqual([scheduleId, mine.id].map((key) => ({ key, state: 'pending', due: true })));
    });
  });

  test('cannot tell a foreign schedule or integration from none', async () => {
    const stranger = randomUUID();
    for (const id of [scheduleId, mine.id, randomUUID()]) {
      const asked = actAs('authenticated', stranger, (db) => db.query(RUN_NOW, [id]));
      await expect(asked).rejects.toMatchObject({
        code: 'P0002',
        message: expect.stringContaining('There is no') as string,
      });
    }
  });

  test('writes their own schedules, and the jobs follow', async () => {
    await actAs('authenticated', mine.userId, async (db) => {
      await db.query('update auto_sync_schedules set enabled = false where id = $1', [scheduleId]);
      const { rows } = await db.query('select state from outbox.jobs where key = $1', [scheduleId]);
      expect(rows).toEqual([{ state: 'cancelled' }]);
    });
  });

  test('writes no foreign ones', async () => {
    await actAs('authenticated', randomUUID(), async (db) => {
      const { rows } = await db.query('update auto_sync_schedules set enabled = false returning id');
      expect(rows).toEqual([]);
    });
    const foreign = actAs('authenticated', randomUUID(), (db) => insertSchedule(db, mine.id));
    await expect(foreign).rejects.toMatchObject(refused);
  });
});

test('service_role runs any schedule now; anon none', async () => {
  await actAs('service_role', undefined, (db) => db.query(RUN_NOW, [scheduleId]));
  await expect(actAs('anon', mine.userId, (db) => db.query(RUN_NOW, [scheduleId]))).rejects.toMatchObject(refused);
});

/** As they stand in the monitoring and verification notes of the system this replaces, word for word. */
const QUERIES = {
  enabled: `SELECT * FROM auto_sync_schedules WHERE enabled = true;`,
  all: `
    SELECT
      id,
      integration_id,
      frequency_minutes,
      enabled,
      last_run_at,
      next_run_at,
      time_window_start,
      time_window_end
    FROM auto_sync_schedules
    ORDER BY next_run_at;`,
  recent: `
    SELECT
      integration_id,
      last_run_at,
      next_run_at,
      frequency_minutes
    FROM auto_sync_schedules
    WHERE last_run_at IS NOT NULL
    ORDER BY last_run_at DESC;`,
};

describe('the queries people know, with search_path = golioth, public,', () => {
  beforeEach(() => database.pool.query('delete from public.auto_sync_schedules where id <> $1', [scheduleId]));

  test.each(Object.keys(QUERIES))('run unchanged as service_role and as a user: %s', async (name) => {
    const query = QUERIES[name as keyof typeof QUERIES];
    await database.pool.query('update public.auto_sync_schedules set last_run_at = now()');
    for (const role of ['service_role', 'authenticated']) {
      const { rows } = await actAs(role, mine.userId, (db) => db.query(query));
      expect(rows).toMatchObject([{ integration_id: mine.id, frequency_minutes: 5 }]);
    }
    const others = await actAs('authenticated', randomUUID(), (db) => db.query(query));
    expect(others.rows).toEqual([]);
    await expect(actAs('anon', undefined, (db) => db.query(query))).rejects.toMatchObject(refused);
  });

  test('list what is enabled, all by the next run, and what has run with the latest first', async () => {
    const [soon, disabled, never] = await insertSchedules(database.pool, mine.id, [
      { everyMinutes: 3 },
      { everyMinutes: 4, enabled: false },
      { everyMinutes: 90 },
    ]);
    await database.pool.query(
      `update public.auto_sync_schedules set last_run_at = now() - frequency_minutes * interval '1 minute' where id <> $1`,
      [never],
    );
    const asked = async (name: keyof typeof QUERIES) =>
      (await actAs('service_role', undefined, (db) => db.query<Record<string, unknown>>(QUERIES[name]))).rows;
    expect((await asked('enabled')).map(({ id }) => id).sort()).toEqual([soon, scheduleId, never].sort());
    expect((await asked('all')).map(({ id }) => id)).toEqual([soon, scheduleId, never, disabled]);
    expect((await asked('recent')).map((row) => row.frequency_minutes)).toEqual([3, 4, 5]);
  });

  test('tell the truth: next_run_at is when the job is due, last_run_at when the last run began', async () => {
    const { rows: jobs } = await database.pool.query<{ id: string; due: Date }>(
      'select id, scheduled_at as due from outbox.jobs where key = $1 and holds_key',
      [scheduleId],
    );
    const planned = await actAs('service_role', undefined, (db) => db.query(QUERIES.all));
    expect(planned.rows).toMatchObject([{ last_run_at: null, next_run_at: jobs[0]?.due }]);
    expect((await actAs('service_role', undefined, (db) => db.query(QUERIES.recent))).rows).toEqual([]);

    await database.pool.query(`update outbox.jobs set holds_key = false where id = $1`, [jobs[0]?.id]);
    const begunAt = new Date((jobs[0]?.due.getTime() ?? 0) + 2_500);
    await worker.query('select golioth.begin_run($1, $2)', [jobs[0]?.id, begunAt]);
    const { rows } = await actAs('service_role', undefined, (db) => db.query(QUERIES.recent));
    const nextAt = new Date((jobs[0]?.due.getTime() ?? 0) + 300_000);
    expect(rows).toMatchObject([{ last_run_at: begunAt, next_run_at: nextAt }]);
  });
});

test('no name of this family hides a table that the host may have', async () => {
  const { rows } = await database.pool.query(
    `select c.relname from pg_class c join pg_class h on h.relname = c.relname and h.relnamespace = 'public'::regnamespace
     where c.relnamespace = 'golioth'::regnamespace`,
  );
  expect(rows).toEqual([]);
});

import { randomUUID } from 'node:crypto';
import { enqueue, SQLSTATE, type Pool, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';

let database: TestDatabase;
const clients: PoolClient[] = [];

beforeAll(async () => void (database = await createTestDatabase()));
afterEach(async () => {
  for (const client of clients.splice(0)) {
    await client.query('rollback; unlisten *; select pg_advisory_unlock_all()');
    client.release();
  }
});
afterAll(() => database.drop());

interface Kind {
  unique_mode: 'waiting' | 'open' | 'none';
  delay: string;
  max_attempts: number;
  priority: number;
  operator_delay: string | null;
  operator_max_attempts: number | null;
}

/** A job name nobody else uses, so that every test has a queue of its own. */
async function setup(kind: Partial<Kind> = {}): Promise<{ name: string; pool: Pool }> {
  const name = `job_${randomUUID()}`;
  const defaults: Kind = {
    unique_mode: 'waiting',
    delay: '0',
    max_attempts: 3,
    priority: 0,
    operator_delay: null,
    operator_max_attempts: null,
  };
  const { pool } = database;
  await pool.query(
    /* sql */ `
    insert into outbox.job_types (
      name, family, queue, unique_mode, delay, max_attempts, priority, operator_delay, operator_max_attempts,
      backoff_type, backoff, backoff_jitter, timeout, retention, failed_retention
    )
    select
      $1, 'test', 'test-queue', t.unique_mode, t.delay, t.max_attempts, t.priority, t.operator_delay,
      t.operator_max_attempts, 'fixed', '1 s', 0, '1 s', '1 day', '1 day'
    from jsonb_to_record($2) as t (
      unique_mode text, delay interval, max_attempts int, priority int, operator_delay interval,
      operator_max_attempts int
    )`,
    [name, JSON.stringify({ ...defaults, ...kind })],
  );
  return { name, pool };
}

/** Asked for before the connection is busy. */
const pidOf = new WeakMap<PoolClient, number>();

/** A connection of its own with a transaction open; what the test leaves open is rolled back. */
async function begin(): Promise<PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  pidOf.set(client, rows[0]?.pid ?? 0);
  await client.query('begin');
  return client;
}

async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Record<string, unknown>[]> {
  const { rows } = await db.query<Record<string, unknown>>(sql, values);
  return rows;
}

/** The jobs called `name`, each with its row in outbox.ready. */
function jobsOf(name: string, db: Queryable = database.pool): Promise<Record<string, unknown>[]> {
  return rowsOf(
    db,
    /* sql */ `
    select j.id, j.key, j.payload, j.state, j.holds_key, r.job_id is not null as ready, r.far
    from outbox.jobs j left join outbox.ready r on r.job_id = j.id and r.generation = j.generation
    where j.name = $1
    order by j.id`,
    [name],
  );
}

async function enqueueMany(db: Queryable, name: string, rows: Record<string, unknown>[]) {
  const { rows: answer } = await db.query<{ key: string | null; id: string; is_new: boolean }>(
    'select key, id, is_new from outbox.enqueue_many(name => $1, rows => $2) order by key, id',
    [name, JSON.stringify(rows)],
  );
  return answer;
}

/** What a worker's claim does to the row: it runs, and a later change needs a row of its own. */
const CLAIM = /* sql */ `
  update outbox.jobs
  set state = 'active', run = outbox.new_run(), attempt = 1, holds_key = false, locked_by = 'w',
    locked_until = now() + interval '1 minute'
  where id = $1`;

/** What a worker's claim can take now, without waiting. */
const CLAIMABLE = /* sql */ `
  select id from outbox.jobs where id = $1 for no key update skip locked`;

/** Resolves once `client` waits for a lock that `holder` has. */
async function untilBlocked(client: PoolClient, holder: PoolClient): Promise<void> {
  await waitFor(async () => {
    const pids = [client, holder].map((each) => pidOf.get(each));
    const [row] = await rowsOf(database.pool, 'select $2::int = any (pg_blocking_pids($1)) as blocked', pids);
    expect(row).toEqual({ blocked: true });
  });
}

describe('what is left out', () => {
  test('comes from the job type: queue, due at once or after its delay, attempts, priority', async () => {
    const { name, pool } = await setup({ delay: '2 hours', max_attempts: 7, priority: -5 });
    const { id, isNew } = await enqueue(pool, name, { payload: {} });
    expect(isNew).toBe(true);
    const asked = `
      select queue, key, holds_key, owner_id, payload, scheduled_at - created_at as delay, due_at = scheduled_at as due,
        max_attempts, priority, state, generation, attempt
      from outbox.jobs where id = $1`;
    expect(await rowsOf(pool, asked, [id])).toMatchObject([
      {
        ...{ queue: 'test-queue', key: null, holds_key: false, owner_id: null, payload: {}, delay: { hours: 2 } },
        ...{ due: true, max_attempts: 7, priority: -5, state: 'pending', generation: 1, attempt: 0 },
      },
    ]);
  });

  test("an operator's delay and attempts win over the job type's", async () => {
    const { name, pool } = await setup({ delay: '2 hours', operator_delay: '3 minutes', operator_max_attempts: 11 });
    await enqueue(pool, name, { payload: {} });
    await enqueueMany(pool, name, [{}]);
    const asked = `select scheduled_at - created_at as delay, max_attempts from outbox.jobs where name = $1`;
    const expected = { delay: { minutes: 3 }, max_attempts: 11 };
    expect(await rowsOf(pool, asked, [name])).toMatchObject([expected, expected]);
  });

  test('what the caller says wins over both', async () => {
    const { name, pool } = await setup({ delay: '2 hours', operator_delay: '3 minutes', operator_max_attempts: 11 });
    const said = { key: 'k', ownerId: randomUUID(), priority: 4, maxAttempts: 1, serialKey: 's', traceparent: 't' };
    const scheduledAt = new Date('2031-02-03T04:05:06.789Z');
    await enqueue(pool, name, { payload: { a: 1 }, scheduledAt, ...said });
    const asked = `
      select key, owner_id as "ownerId", priority, max_attempts as "maxAttempts", serial_key as "serialKey", traceparent,
        scheduled_at as "scheduledAt", due_at as "dueAt", payload
      from outbox.jobs where name = $1`;
    expect(await rowsOf(pool, asked, [name])).toEqual([
      { ...said, scheduledAt, dueAt: scheduledAt, payload: { a: 1 } },
    ]);
  });
});

describe('refusals', () => {
  test('a name nobody defined is SQLSTATE OB001, with a hint where the names are', async () => {
    const refused = {
      code: SQLSTATE.unknownJob,
      message: 'There is no job named "no_such_job".',
      hint: expect.stringContaining('outbox.job_types') as string,
    };
    await expect(enqueue(database.pool, 'no_such_job', { payload: {} })).rejects.toMatchObject(refused);
    await expect(enqueueMany(database.pool, 'no_such_job', [{}])).rejects.toMatchObject(refused);
  });

  test.each([[[]], ['text'], [7]])('a payload that is no object (%j) is refused', async (payload) => {
    const { name, pool } = await setup();
    const refused = { constraint: 'payload_is_an_object' };
    await expect(enqueue(pool, name, { payload })).rejects.toMatchObject(refused);
    await expect(enqueueMany(pool, name, [{ payload }])).rejects.toMatchObject(refused);
  });
});

describe('in the transaction of the caller', () => {
  test('a commit leaves the job and its row in outbox.ready, a rollback neither', async () => {
    const { name } = await setup();
    const client = await begin();
    await enqueue(client, name, { key: 'a', payload: {} });
    await enqueueMany(client, name, [{ key: 'b' }]);
    expect(await jobsOf(name, client)).toMatchObject([{ ready: true }, { ready: true }]);
    expect(await jobsOf(name)).toEqual([]);
    const ids = await rowsOf(client, 'select id from outbox.jobs where name = $1', [name]);
    await client.query('rollback');
    expect(await jobsOf(name)).toEqual([]);
    const left = 'select job_id from outbox.ready where job_id = any ($1)';
    expect(await rowsOf(database.pool, left, [ids.map(({ id }) => id)])).toEqual([]);

    await client.query('begin');
    await enqueue(client, name, { key: 'a', payload: {} });
    await client.query('commit');
    expect(await jobsOf(name)).toMatchObject([{ key: 'a', ready: true }]);
  });

  test('a row beyond the publish window is far: it waits in Postgres', async () => {
    const { name, pool } = await setup();
    const inHours = (hours: number) => new Date(Date.now() + hours * 3_600_000);
    await enqueue(pool, name, { key: '1', payload: {}, scheduledAt: inHours(71) });
    await enqueue(pool, name, { key: '2', payload: {}, scheduledAt: inHours(73) });
    await enqueueMany(pool, name, [{ key: '3', scheduled_at: inHours(71) }]);
    await enqueueMany(pool, name, [{ key: '4', scheduled_at: inHours(73) }]);
    expect(await jobsOf(name)).toMatchObject([{ far: false }, { far: true }, { far: false }, { far: true }]);
  });
});

describe('a duplicate', () => {
  test('of a row that waits gives that row, with what the first one said', async () => {
    const { name, pool } = await setup();
    const first = await enqueue(pool, name, { key: 'k', payload: { said: 'first' } });
    const second = await enqueue(pool, name, { key: 'k', payload: { said: 'second' } });
    expect(second).toEqual({ id: first.id, isNew: false });
    expect(await jobsOf(name)).toMatchObject([{ payload: { said: 'first' }, holds_key: true }]);
  });

  test('is one of the same name only', async () => {
    const [one, other] = [await setup(), await setup()];
    await enqueue(one.pool, one.name, { key: 'k', payload: {} });
    expect(await enqueue(other.pool, other.name, { key: 'k', payload: {} })).toMatchObject({ isNew: true });
  });

  test('does not exist for jobs without a key, nor for a job that is never unique', async () => {
    const { name, pool } = await setup();
    const free = await setup({ unique_mode: 'none' });
    for (const round of [1, 2]) {
      expect(await enqueue(pool, name, { payload: { round } })).toMatchObject({ isNew: true });
      expect(await enqueue(pool, free.name, { key: 'k', payload: { round } })).toMatchObject({ isNew: true });
    }
  });

  test('of a row claimed meanwhile is a row of its own: the running job may have read the world before the change', async () => {
    const { name, pool } = await setup();
    const first = await enqueue(pool, name, { key: 'k', payload: {} });
    await pool.query(CLAIM, [first.id]);
    const second = await enqueue(pool, name, { key: 'k', payload: {} });
    expect(second.isNew).toBe(true);
    expect(await enqueue(pool, name, { key: 'k', payload: {} })).toEqual({ id: second.id, isNew: false });
    expect(await jobsOf(name)).toMatchObject([
      { id: first.id, state: 'active', holds_key: false },
      { id: second.id, state: 'pending', holds_key: true, ready: true },
    ]);
  });

  test('that meets a claim under way waits for it, and is a row of its own', async () => {
    const { name, pool } = await setup();
    const first = await enqueue(pool, name, { key: 'k', payload: {} });
    const [worker, business] = [await begin(), await begin()];
    await worker.query(CLAIM, [first.id]);
    const second = enqueue(business, name, { key: 'k', payload: {} });
    await untilBlocked(business, worker);
    await worker.query('commit');
    expect(await second).toMatchObject({ isNew: true });
    await business.query('commit');
    expect(await jobsOf(name)).toMatchObject([{ state: 'active' }, { state: 'pending' }]);
  });

  test('keeps the row from being claimed until its transaction ends: no change is lost', async () => {
    const { name, pool } = await setup();
    const { id } = await enqueue(pool, name, { key: 'k', payload: {} });
    const business = await begin();
    expect(await enqueue(business, name, { key: 'k', payload: {} })).toEqual({ id, isNew: false });
    expect(await rowsOf(pool, CLAIMABLE, [id])).toEqual([]);
    await business.query('commit');
    expect(await rowsOf(pool, CLAIMABLE, [id])).toEqual([{ id }]);
  });

  test('keeps the row from being claimed when it comes in a set, too', async () => {
    const { name, pool } = await setup();
    const { id } = await enqueue(pool, name, { key: 'k', payload: {} });
    const business = await begin();
    expect(await enqueueMany(business, name, [{ key: 'k' }, { key: 'new' }])).toMatchObject([
      { id, is_new: false },
      { key: 'new', is_new: true },
    ]);
    expect(await rowsOf(pool, CLAIMABLE, [id])).toEqual([]);
    await business.query('rollback');
    expect(await rowsOf(pool, CLAIMABLE, [id])).toEqual([{ id }]);
  });
});

describe('two transactions that insert the same key at the same time', () => {
  async function meet() {
    const { name } = await setup();
    const [first, second] = [await begin(), await begin()];
    const { id } = await enqueue(first, name, { key: 'k', payload: { by: 'first' } });
    const waiting = enqueue(second, name, { key: 'k', payload: { by: 'second' } });
    await untilBlocked(second, first);
    return { name, first, second, id, waiting };
  }

  test('the second waits and gets the row of the first when that commits', async () => {
    const { name, first, second, id, waiting } = await meet();
    await first.query('commit');
    expect(await waiting).toEqual({ id, isNew: false });
    await second.query('commit');
    expect(await jobsOf(name)).toMatchObject([{ id, payload: { by: 'first' } }]);
  });

  test('the second waits and has a row of its own when the first is rolled back', async () => {
    const { name, first, second, id, waiting } = await meet();
    await first.query('rollback');
    const own = await waiting;
    expect(own.isNew).toBe(true);
    expect(own.id).not.toBe(id);
    await second.query('commit');
    expect(await jobsOf(name)).toMatchObject([{ id: own.id, payload: { by: 'second' }, ready: true }]);
  });
});

describe('an idempotency key', () => {
  test('gives the same row whatever became of it', async () => {
    const { name, pool } = await setup({ unique_mode: 'none' });
    const request = { payload: {}, ownerId: randomUUID(), idempotencyKey: 'i' };
    const { id } = await enqueue(pool, name, request);
    await pool.query(CLAIM, [id]);
    expect(await enqueue(pool, name, request)).toEqual({ id, isNew: false });
    await pool.query(
      `update outbox.jobs set state = 'completed', finished_at = now(), locked_by = null, locked_until = null where id = $1`,
      [id],
    );
    expect(await enqueue(pool, name, request)).toEqual({ id, isNew: false });
    expect(await enqueueMany(pool, name, [{ owner_id: request.ownerId, idempotency_key: 'i' }])).toMatchObject([
      { id, is_new: false },
    ]);
  });

  test('belongs to its owner; nobody is an owner too', async () => {
    const { name, pool } = await setup();
    const mine = await enqueue(pool, name, { payload: {}, ownerId: randomUUID(), idempotencyKey: 'i' });
    const theirs = await enqueue(pool, name, { payload: {}, ownerId: randomUUID(), idempotencyKey: 'i' });
    const nobodys = await enqueue(pool, name, { payload: {}, idempotencyKey: 'i' });
    expect([mine.isNew, theirs.isNew, nobodys.isNew]).toEqual([true, true, true]);
    expect(await enqueue(pool, name, { payload: {}, idempotencyKey: 'i' })).toEqual({ id: nobodys.id, isNew: false });
  });

  test('is stronger than the key, which would be free again', async () => {
    const { name, pool } = await setup();
    const request = { key: 'k', payload: {}, idempotencyKey: 'i' };
    const { id } = await enqueue(pool, name, request);
    await pool.query(CLAIM, [id]);
    expect(await enqueue(pool, name, request)).toEqual({ id, isNew: false });
  });

  test('that is new does not make a second row of a key that waits', async () => {
    const { name, pool } = await setup();
    const { id } = await enqueue(pool, name, { key: 'k', payload: {}, idempotencyKey: 'i' });
    const second = { key: 'k', payload: {}, idempotencyKey: 'j' };
    expect(await enqueue(pool, name, second)).toEqual({ id, isNew: false });
    await pool.query(CLAIM, [id]);
    // The same request again: its answer stands, although the key is free by now.
    expect(await enqueue(pool, name, second)).toEqual({ id, isNew: false });
    expect(await jobsOf(name)).toHaveLength(1);
  });
});

describe('enqueue_many', () => {
  test('of several rows with one key the last counts', async () => {
    const { name, pool } = await setup();
    const said = ['first', 'second', 'last'].map((payload) => ({ key: 'k', payload: { said: payload } }));
    const answer = await enqueueMany(pool, name, [...said, { key: 'other', payload: {} }]);
    expect(answer).toMatchObject([
      { key: 'k', is_new: true },
      { key: 'other', is_new: true },
    ]);
    expect((await jobsOf(name)).map(({ payload }) => payload)).toEqual([{ said: 'last' }, {}]);
  });

  test('so it does when another has an idempotency key, and rows without a key are kept then, too', async () => {
    const { name, pool } = await setup();
    const answer = await enqueueMany(pool, name, [
      { key: 'k', payload: { said: 'first' } },
      { payload: { n: 1 } },
      { key: 'k', payload: { said: 'last' }, idempotency_key: 'i' },
    ]);
    expect(answer).toMatchObject([
      { key: 'k', is_new: true },
      { key: null, is_new: true },
    ]);
    expect((await jobsOf(name)).map(({ payload }) => payload)).toEqual([{ said: 'last' }, { n: 1 }]);
  });

  test('rows without a key are all kept', async () => {
    const { name, pool } = await setup();
    await enqueueMany(pool, name, [{ payload: { n: 1 } }, { payload: { n: 1 } }, { key: null, payload: { n: 2 } }]);
    expect((await jobsOf(name)).map(({ payload }) => payload)).toEqual([{ n: 1 }, { n: 1 }, { n: 2 }]);
  });

  test('so are rows with one key of a job that is never unique', async () => {
    const { name, pool } = await setup({ unique_mode: 'none' });
    await enqueueMany(pool, name, [{ key: 'k' }, { key: 'k' }]);
    expect(await jobsOf(name)).toMatchObject([{ holds_key: false }, { holds_key: false }]);
  });

  test('answers for every row, new or duplicate, and adds the new ones only', async () => {
    const { name, pool } = await setup();
    const waiting = await enqueue(pool, name, { key: 'waiting', payload: {} });
    const running = await enqueue(pool, name, { key: 'running', payload: {} });
    await pool.query(CLAIM, [running.id]);
    const answer = await enqueueMany(pool, name, [{ key: 'waiting' }, { key: 'new' }, { key: 'running' }, {}]);
    expect(answer).toMatchObject([
      { key: 'new', is_new: true },
      { key: 'running', is_new: true },
      { key: 'waiting', is_new: false, id: waiting.id },
      { key: null, is_new: true },
    ]);
    expect(answer.find(({ key }) => key === 'running')?.id).not.toBe(running.id);
    expect((await jobsOf(name)).filter(({ state }) => state === 'pending')).toHaveLength(4);
  });

  test('each row may say what enqueue() can be told', async () => {
    const { name, pool } = await setup();
    const row = { key: 'k', owner_id: randomUUID(), priority: 4, max_attempts: 1, serial_key: 's', traceparent: 't' };
    await enqueueMany(pool, name, [{ ...row, payload: { a: 1 }, scheduled_at: '2031-02-03T04:05:06.789Z' }]);
    const asked = `
      select key, owner_id, priority, max_attempts, serial_key, traceparent, payload, scheduled_at
      from outbox.jobs where name = $1`;
    expect(await rowsOf(pool, asked, [name])).toEqual([
      { ...row, payload: { a: 1 }, scheduled_at: new Date('2031-02-03T04:05:06.789Z') },
    ]);
  });

  test('rows that are new become ready by one statement, however many they are', async () => {
    const { name } = await setup();
    const client = await begin();
    // Undone with the transaction.
    await client.query(/* sql */ `
      create function public.count_statement() returns trigger language plpgsql as $$
      begin
        perform set_config('test.statements', (current_setting('test.statements')::int + 1)::text, true);
        return null;
      end $$;
      create trigger count_statement after insert on outbox.ready
      for each statement execute function public.count_statement();
      set local test.statements = '0'`);
    await enqueueMany(
      client,
      name,
      Array.from({ length: 50 }, (_, n) => ({ key: String(n) })),
    );
    expect(await rowsOf(client, `select current_setting('test.statements') as statements`)).toEqual([
      { statements: '1' },
    ]);
    expect((await jobsOf(name, client)).filter(({ ready }) => ready)).toHaveLength(50);
  });

  test('takes its rows in the order of their keys, so that two callers wait for each other and do not deadlock', async () => {
    const { name } = await setup();
    const [first, second] = [await begin(), await begin()];
    await enqueueMany(first, name, [{ key: 'a' }]);
    const waiting = enqueueMany(second, name, [{ key: 'b' }, { key: 'a' }]);
    await untilBlocked(second, first);
    await enqueueMany(first, name, [{ key: 'b' }]);
    await first.query('commit');
    expect(await waiting).toMatchObject([{ is_new: false }, { is_new: false }]);
  });

  test('of nothing adds nothing', async () => {
    const { name, pool } = await setup();
    expect(await enqueueMany(pool, name, [])).toEqual([]);
  });
});

describe('waking the bridge', () => {
  /** Listens as a sleeping bridge does, and tells what it heard up to now, in the order of the commits. */
  async function listen() {
    const client = await database.pool.connect();
    clients.push(client);
    const heard: string[] = [];
    client.on('notification', ({ payload }) => heard.push(payload ?? ''));
    await client.query('listen outbox_ready');
    const heardSoFar = async () => {
      await database.pool.query(`notify outbox_ready, 'end'`);
      await waitFor(() => expect(heard).toContain('end'));
      client.removeAllListeners('notification');
      return heard;
    };
    return { heardSoFar };
  }

  test('an insert tells whoever listens when no bridge is awake', async () => {
    const { name, pool } = await setup();
    const { heardSoFar } = await listen();
    await enqueue(pool, name, { payload: {} });
    await enqueueMany(pool, name, [{}, {}]);
    expect(await heardSoFar()).toEqual(['', '', 'end']);
  });

  test('nobody is told while a bridge is awake: it finds the rows by itself', async () => {
    const { name, pool } = await setup();
    const { heardSoFar } = await listen();
    const bridge = await begin();
    await bridge.query('select pg_advisory_lock(outbox.awake_lock())');
    await enqueue(pool, name, { payload: {} });
    expect(await heardSoFar()).toEqual(['end']);
  });

  test('writers do not wait for each other, nor for a bridge, to learn whether to tell', async () => {
    const { name } = await setup();
    const [first, second] = [await begin(), await begin()];
    const { heardSoFar } = await listen();
    await enqueue(first, name, { payload: {} });
    await second.query(`set local lock_timeout = '1s'`);
    await enqueue(second, name, { payload: {} });
    await second.query('commit');
    await first.query('commit');
    expect(await heardSoFar()).toEqual(['', '', 'end']);
  });
});

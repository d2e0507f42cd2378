import { randomUUID } from 'node:crypto';
import { enqueue, type EnqueueRequest, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';

export type Row = Record<string, unknown>;

export async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Row[]> {
  return (await db.query<Row>(sql, values)).rows;
}

const ADD_JOB_TYPE = /* sql */ `
  insert into outbox.job_types (
    name, family, queue, unique_mode, max_attempts, backoff_type, backoff, backoff_jitter, timeout, retention,
    failed_retention
  )
  values ($1, 'test', 'reminders', $2, 3, 'fixed', '1 s', 0, '1 s', '1 day', '1 day')`;

/** What a claim, and each way to end a run, do to the row. */
const CHANGES = {
  publish: `state = 'published', published_at = now(), published_epoch = 0`,
  claim: `state = 'active', run = outbox.new_run(), attempt = attempt + 1, locked_by = 'w',
    locked_until = now() + interval '1 minute', started_at = now(),
    holds_key = holds_key and (select t.unique_mode = 'open' from outbox.job_types t where t.name = jobs.name)`,
  retry: `state = 'published', locked_by = null, locked_until = null`,
  completed: `state = 'completed', finished_at = now(), holds_key = false, admitted = false, locked_by = null, locked_until = null`,
  skipped: `state = 'skipped', finished_at = now(), holds_key = false, admitted = false, locked_by = null, locked_until = null`,
  failed: `state = 'failed', finished_at = now(), holds_key = false, admitted = false, locked_by = null, locked_until = null`,
  cancelled: `state = 'cancelled', finished_at = now(), holds_key = false, admitted = false, locked_by = null, locked_until = null`,
} as const;

export type Change = keyof typeof CHANGES;

export interface Rows {
  readonly database: TestDatabase;
  /** A job name nobody else uses. */
  addType(unique?: 'waiting' | 'open' | 'none'): Promise<string>;
  /** A row of its own key unless one is given, taken through `changes`. */
  add(name: string, request?: Partial<EnqueueRequest>, ...changes: Change[]): Promise<{ id: string; key: string }>;
  change(id: string, change: Change, db?: Queryable): Promise<void>;
  read(id: string): Promise<Row>;
  of(name: string): Promise<Row[]>;
  /** What the bridge has to publish and to take out, of this row. */
  bridgeWork(id: string): Promise<{ ready: Row[]; removals: Row[] }>;
  /** A call of this row, in `state`; gives the effect's id. */
  addEffect(jobId: string, state: 'started' | 'unknown' | 'confirmed'): Promise<string>;
  /** A connection of its own with a transaction open; what the test leaves open is rolled back. */
  begin(): Promise<PoolClient>;
  /** Resolves once `client` waits for a lock that `holder` has. */
  untilBlocked(client: PoolClient, holder: PoolClient): Promise<void>;
}

/** Rows of a database of the test file's own. Call it at the top of the file. */
export function useRows(): Rows {
  let database: TestDatabase;
  const clients: PoolClient[] = [];
  const pids = new WeakMap<PoolClient, number>();

  beforeAll(async () => void (database = await createTestDatabase()));
  afterEach(async () => {
    for (const client of clients.splice(0)) {
      await client.query('rollback; reset role');
      client.release();
    }
  });
  afterAll(() => database.drop());

  const rows: Rows = {
    get database() {
      return database;
    },
    addType: async (unique = 'open') => {
      const name = `job_${randomUUID()}`;
      await database.pool.query(ADD_JOB_TYPE, [name, unique]);
      return name;
    },
    add: async (name, request = {}, ...changes) => {
      const key = request.key ?? randomUUID();
      const { id } = await enqueue(database.pool, name, { payload: {}, ...request, key });
      for (const change of changes) await rows.change(id, change);
      return { id, key };
    },
    change: async (id, change, db = database.pool) => {
      await db.query(`update outbox.jobs set ${CHANGES[change]} where id = $1`, [id]);
    },
    read: async (id) => (await rowsOf(database.pool, 'select * from outbox.jobs where id = $1', [id]))[0] ?? {},
    of: (name) => rowsOf(database.pool, 'select * from outbox.jobs where name = $1 order by id', [name]),
    bridgeWork: async (id) => ({
      ready: await rowsOf(
        database.pool,
        'select generation, far, serial_key, scheduled_at from outbox.ready where job_id = $1 order by generation',
        [id],
      ),
      removals: await rowsOf(
        database.pool,
        'select queue, generation from outbox.removals where job_id = $1 order by generation',
        [id],
      ),
    }),
    addEffect: async (jobId, state) => {
      const [effect] = await rowsOf(
        database.pool,
        /* sql */ `
        insert into outbox.effects (key, job_id, run, provider, state, deadline_at, settled_at, reference)
        values (
          $1, $2, 1, 'sms', $3, now(), case when $3 <> 'started' then now() end, case when $3 = 'confirmed' then 'r' end
        )
        returning id`,
        [`test:${randomUUID()}`, jobId, state],
      );
      return String(effect?.id);
    },
    begin: async () => {
      const client = await database.pool.connect();
      clients.push(client);
      const [row] = await rowsOf(client, 'select pg_backend_pid() as pid');
      pids.set(client, Number(row?.pid));
      await client.query('begin');
      return client;
    },
    untilBlocked: (client, holder) =>
      waitFor(async () => {
        const pair = [pids.get(client), pids.get(holder)];
        expect(await rowsOf(database.pool, 'select $2::int = any (pg_blocking_pids($1)) as blocked', pair)).toEqual([
          { blocked: true },
        ]);
      }),
  };
  return rows;
}

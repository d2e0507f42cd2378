import { randomUUID } from 'node:crypto';
import { createPool, type Pool, type PoolClient, type Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';

/** Rows of the host application, and of the queue, for tests; only tests import this. */
export type Row = Record<string, unknown>;

export async function rowsOf(db: Queryable, sql: string, values?: unknown[]): Promise<Row[]> {
  return (await db.query<Row>(sql, values)).rows;
}

export interface TestAccount {
  id: string;
  userId: string;
}

export interface AccountWish {
  userId?: string;
  googleName?: string | null;
  isActive?: boolean;
  refreshToken?: string | null;
  accessToken?: string | null;
  /** From now, by the database's clock. */
  expiresInMs?: number;
}

/** A connected account, and its user unless one is named. */
export async function addAccount(db: Queryable, wish: AccountWish = {}): Promise<TestAccount> {
  const { userId = randomUUID(), googleName = 'accounts/1', isActive = true, refreshToken = 'refresh-1' } = wish;
  const id = randomUUID();
  await db.query('insert into auth.users (id) values ($1) on conflict do nothing', [userId]);
  await db.query(
    `insert into public.gmb_accounts (id, user_id, account_name, account_id, is_active)
     values ($1, $2, 'My Business', $3, $4)`,
    [id, userId, googleName, isActive],
  );
  await db.query(
    `insert into public.oauth_tokens (account_id, refresh_token, access_token, expires_at)
     values ($1, $2, $3, clock_timestamp() + $4 * interval '1 ms')`,
    [id, refreshToken, wish.accessToken ?? null, wish.expiresInMs ?? 3_600_000],
  );
  return { id, userId };
}

/** What claims and ends do to the row of a sync. `away`: its lease is over. */
const CHANGES = {
  publish: `state = 'published', published_at = clock_timestamp(), published_epoch = 0`,
  claim: `state = 'active', run = outbox.new_run(), attempt = attempt + 1, locked_by = 'worker 1',
    locked_until = clock_timestamp() + interval '15 s', started_at = clock_timestamp()`,
  away: `locked_until = clock_timestamp() - interval '1 s'`,
  retry: `state = 'published', locked_by = null, locked_until = null, last_error = 'Error: Google is down',
    scheduled_at = clock_timestamp() + interval '1 minute'`,
  completed: `state = 'completed', finished_at = clock_timestamp(), holds_key = false, locked_by = null,
    locked_until = null`,
  skipped: `state = 'skipped', reason = 'account_inactive', finished_at = clock_timestamp(), holds_key = false,
    locked_by = null, locked_until = null`,
  failed: `state = 'failed', reason = 'attempts_spent', last_error = 'Error: Google is down',
    finished_at = clock_timestamp(), holds_key = false, locked_by = null, locked_until = null`,
} as const;

export type Change = keyof typeof CHANGES;

export interface SyncWish {
  syncType?: string;
  priority?: number;
  scheduledAt?: string;
  maxAttempts?: number;
  metadata?: unknown;
}

export interface Gmb {
  readonly database: TestDatabase;
  /** Can do what the worker can, and no more. */
  readonly worker: Pool;
  /** Asks for a sync as the API does; gives what it is answered. */
  ask(
    account: TestAccount,
    wish?: SyncWish,
    db?: Queryable,
  ): Promise<{ id: string; status: string; duplicate: boolean }>;
  /** A sync of an account of its own, taken through `changes`; gives the id of the view. */
  add(wish?: SyncWish, ...changes: Change[]): Promise<{ id: string; account: TestAccount }>;
  change(id: string, change: Change, db?: Queryable): Promise<void>;
  /** A row of outbox.jobs. */
  job(id: string): Promise<Row>;
  /** A row of gmb.sync_queue. */
  shown(id: string): Promise<Row | undefined>;
  /** What the bridge has to publish and to take out, of this row. */
  bridgeWork(id: string): Promise<{ ready: unknown[]; removals: unknown[] }>;
  attempts(id: string): Promise<Row[]>;
  /** A connection of its own with a transaction open; what the test leaves open is rolled back. */
  begin(): Promise<PoolClient>;
  /** Acts as a role of the host application, for a user of it if one is named, in a transaction that is rolled back. */
  actAs<T>(role: string, user: string | undefined, work: (db: Queryable) => Promise<T>): Promise<T>;
}

/** The queue of a database of the test file's own. Call it at the top of the file. */
export function useGmb(): Gmb {
  let database: TestDatabase;
  let worker: Pool;
  const clients: PoolClient[] = [];

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { applicationName: 'worker of a test', max: 3, onError: () => undefined };
    worker = createPool({ url: database.url, role: 'outbox_worker', ...options });
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) {
      await client.query('rollback; reset role');
      client.release();
    }
  });
  afterAll(async () => {
    await worker.end();
    await database.drop();
  });

  const gmb: Gmb = {
    get database() {
      return database;
    },
    get worker() {
      return worker;
    },

    ask: async ({ id, userId }, wish = {}, db = database.pool) => {
      const { rows } = await db.query<{ id: string; status: string; duplicate: boolean }>(
        `select id, status, duplicate from gmb.enqueue_sync(
           account_id => $1, user_id => $2, sync_type => $3, priority => $4, scheduled_at => $5, max_attempts => $6,
           metadata => $7
         )`,
        [
          ...[id, userId, wish.syncType ?? 'full', wish.priority ?? null, wish.scheduledAt ?? null],
          ...[wish.maxAttempts ?? null, wish.metadata === undefined ? null : JSON.stringify(wish.metadata)],
        ],
      );
      return only(rows);
    },

    add: async (wish = {}, ...changes) => {
      const account = await addAccount(database.pool);
      const { id } = await gmb.ask(account, wish);
      for (const change of changes) await gmb.change(id, change);
      return { id, account };
    },

    change: async (id, change, db = database.pool) => {
      await db.query(`update outbox.jobs set ${CHANGES[change]} where id = outbox.job_id($1)`, [id]);
      if (change === 'publish') {
        await db.query('delete from outbox.ready where job_id = outbox.job_id($1)', [id]);
      }
    },

    job: async (id) =>
      only(await rowsOf(database.pool, 'select * from outbox.jobs where id = outbox.job_id($1)', [id])),

    shown: async (id) => (await rowsOf(database.pool, 'select * from gmb.sync_queue where id = $1', [id]))[0],

    bridgeWork: async (id) => {
      const of = async (table: string) =>
        (
          await rowsOf(
            database.pool,
            `select generation from outbox.${table} where job_id = outbox.job_id($1) order by 1`,
            [id],
          )
        ).map(({ generation }) => generation);
      return { ready: await of('ready'), removals: await of('removals') };
    },

    attempts: (id) =>
      rowsOf(
        database.pool,
        'select attempt, worker, outcome, reason, error from outbox.attempts where job_id = outbox.job_id($1) order by run',
        [id],
      ),

    begin: async () => {
      const client = await database.pool.connect();
      clients.push(client);
      await client.query('begin');
      return client;
    },

    actAs: async (role, user, work) => {
      const client = await gmb.begin();
      const claims = JSON.stringify(user === undefined ? { role } : { role, sub: user });
      await client.query(`select set_config('request.jwt.claims', $1, true)`, [claims]);
      await client.query(`set local role ${role}`);
      const result = await work(client);
      await client.query('rollback');
      return result;
    },
  };
  return gmb;
}

export function only<T>(rows: T[]): T {
  const [row] = rows;
  if (row === undefined || rows.length > 1) throw new Error(`${rows.length} rows`);
  return row;
}

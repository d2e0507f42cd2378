import { startGoogleSimulator, type GoogleSimulator } from '@outbox/simulators';
import {
  createTestDatabase,
  createTestPrefix,
  startService,
  waitFor,
  type RunningService,
  type TestDatabase,
  type TestPrefix,
} from '@outbox/testing';

/** A Google account that the application knows. */
export interface Account {
  id: string;
  userId: string;
  /** E.g. `accounts/1`. */
  googleName: string;
  refreshToken: string;
}

export type Row = Record<string, unknown>;

/** The application, Google, and the services between them, anew for each test. Call `useGmbWorld` at the top of the file. */
export interface GmbWorld {
  readonly db: TestDatabase;
  readonly google: GoogleSimulator;
  start(name: 'bridge' | 'worker', env?: Record<string, string>): Promise<RunningService>;
  /** An account that both sides know, with so many locations (`locations/<number of the account>-1` …). */
  connect(locations?: number): Promise<Account>;
  /** What a service of the application does: SQL with the schema in the search path, as `service_role`. */
  asService(sql: string, values?: unknown[]): Promise<Row[]>;
  /** Asks for a sync, by an insert into the queue; gives its id. */
  ask(account: Account, syncType: string, priority?: number): Promise<string>;
  /** Resolves with the row of gmb.sync_queue once it has come to this status. */
  until(id: string, status: string, timeoutMs?: number): Promise<Row>;
}

const INSERT = `
  insert into sync_queue (user_id, account_id, sync_type, status, priority, attempts, max_attempts, metadata)
  values ($1, $2, $3, 'pending', $4, 0, 3, '{"test": true}')
  returning id`;

export function useGmbWorld(): GmbWorld {
  let db: TestDatabase;
  let prefix: TestPrefix;
  let google: GoogleSimulator;
  let accounts = 0;
  const services: RunningService[] = [];

  beforeEach(async () => {
    [db, google] = await Promise.all([createTestDatabase(), startGoogleSimulator()]);
    prefix = createTestPrefix();
    accounts = 0;
    // The seed's minute is too long for a test; that it is the rule is proven beside the job's definition.
    await db.pool.query("update outbox.job_types set operator_backoff = '200 ms' where name = 'gmb_sync'");
  });
  afterEach(async () => {
    await Promise.all(services.splice(0).map((service) => service.kill('SIGKILL')));
    await google.close();
    await db.drop();
    await prefix.removeKeys();
  });

  const world: GmbWorld = {
    get db() {
      return db;
    },
    get google() {
      return google;
    },

    start: async (name, env = {}) => {
      const service = await startService(name, {
        DATABASE_URL: db.url,
        DATABASE_ROLE: `outbox_${name}`,
        OUTBOX_INSTANCE: 'test',
        REDIS_URL: prefix.redisUrl,
        QUEUE_PREFIX: prefix.prefix,
        FAMILIES: 'gmb',
        GOOGLE_SIMULATOR_URL: google.url,
        ...env,
      });
      services.push(service);
      return service;
    },

    connect: async (locations = 1) => {
      accounts += 1;
      const googleName = `accounts/${accounts}`;
      const refreshToken = `refresh-${accounts}`;
      google.addAccount({ name: googleName, refreshToken });
      for (let n = 1; n <= locations; n += 1) {
        const name = `locations/${accounts}-${n}`;
        google.addLocation(googleName, { name, title: `Place ${n}`, reviews: [{ reviewId: 'r1', comment: 'Good' }] });
      }
      const { rows } = await db.pool.query<{ id: string; userId: string }>(
        `with owner as (insert into auth.users default values returning id),
         account as (
           insert into gmb_accounts (user_id, account_name, account_id) select id, 'My Business', $1 from owner
           returning id, user_id
         ),
         token as (insert into oauth_tokens (account_id, refresh_token) select id, $2 from account)
         select id, user_id as "userId" from account`,
        [googleName, refreshToken],
      );
      const [account] = rows;
      if (!account) throw new Error('The account was not inserted.');
      return { ...account, googleName, refreshToken };
    },

    asService: async (sql, values) => {
      const client = await db.pool.connect();
      try {
        await client.query('begin; set local search_path = gmb, public; set local role service_role');
        const { rows } = await client.query<Row>(sql, values);
        await client.query('commit');
        return rows;
      } catch (error) {
        await client.query('rollback');
        throw error;
      } finally {
        client.release();
      }
    },

    ask: async (account, syncType, priority = 10) => {
      const [row] = await world.asService(INSERT, [account.userId, account.id, syncType, priority]);
      return String(row?.id);
    },

    until: async (id, status, timeoutMs = 20_000) => {
      let row: Row | undefined;
      await waitFor(
        async () => {
          [row] = await world.asService('select * from sync_queue where id = $1', [id]);
          expect(row).toMatchObject({ status });
        },
        { timeoutMs },
      );
      return row ?? {};
    },
  };
  return world;
}

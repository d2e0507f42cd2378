import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { ConfigError, UnavailableError } from './errors.ts';
import {
  assertPostgresReachable,
  codeOf,
  createPool,
  isConnectionError,
  isContention,
  SQLSTATE,
  withTransaction,
  type Pool,
  type PoolOptions,
} from './postgres.ts';

let database: TestDatabase;
const pools: Pool[] = [];

beforeAll(async () => void (database = await createTestDatabase()));
afterEach(async () => void (await Promise.all(pools.splice(0).map((pool) => pool.end()))));
afterAll(() => database.drop());

function setup(options: Partial<PoolOptions> = {}): Pool {
  const pool = createPool({
    url: database.url,
    applicationName: 'core test',
    max: 2,
    onError: () => undefined,
    ...options,
  });
  pools.push(pool);
  return pool;
}

/** A port on which nobody listens: it was free a moment ago. */
async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function urlWith(change: Partial<Pick<URL, 'port' | 'pathname' | 'username' | 'password'>>): string {
  return Object.assign(new URL(database.url), change).toString();
}

async function failureOf(work: Promise<unknown>): Promise<Error> {
  const error = await work.then(
    () => new Error('It did not fail.'),
    (reason: unknown) => reason,
  );
  if (error instanceof Error) return error;
  throw error;
}

async function one(pool: Pool, sql: string, values?: unknown[]): Promise<unknown> {
  const { rows } = await pool.query<Record<string, unknown>>(sql, values);
  return rows[0];
}

describe('assertPostgresReachable', () => {
  test('passes when Postgres answers', async () => {
    await expect(assertPostgresReachable(setup(), database.url)).resolves.toBeUndefined();
  });

  test('a closed port is one line that names host, port and database, and not the password', async () => {
    const port = await closedPort();
    const url = `postgres://app:pa55word@127.0.0.1:${port}/orders`;
    const error = await failureOf(assertPostgresReachable(setup({ url }), url));
    expect(error).toBeInstanceOf(UnavailableError);
    expect(error.message).toBe(
      `Postgres at 127.0.0.1:${port}/orders does not answer (connect ECONNREFUSED 127.0.0.1:${port}). ` +
        'Start it, or point DATABASE_URL elsewhere.',
    );
  });

  test('a host name that has several addresses, none of which answers, is told with the code', async () => {
    const url = `postgres://app:pa55word@localhost:${await closedPort()}/orders`;
    const error = await failureOf(assertPostgresReachable(setup({ url }), url));
    expect(error).toBeInstanceOf(UnavailableError);
    expect(error.message).toContain('ECONNREFUSED');
    expect(error.message).not.toMatch(/pa55word|\n/);
  });

  test('a database that does not exist is a matter of settings', async () => {
    const url = urlWith({ pathname: '/no_such_database', password: 'pa55word' });
    const error = await failureOf(assertPostgresReachable(setup({ url }), url));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(/no_such_database refuses us \(.*\)\. Check DATABASE_URL and DATABASE_ROLE\.$/);
    expect(error.message).not.toMatch(/pa55word|\n/);
  });

  test('a role that does not exist is a matter of settings', async () => {
    const error = await failureOf(assertPostgresReachable(setup({ role: 'no_such_role' }), database.url));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toContain('no_such_role');
  });
});

describe('createPool', () => {
  test('its sessions take the role and show the name, and lose their locks when they hang in a transaction', async () => {
    const pool = setup({ role: 'outbox_worker', applicationName: 'outbox worker' });
    const asked = `
      select current_user as role, current_setting('application_name') as name,
        current_setting('idle_in_transaction_session_timeout') as idle`;
    expect(await one(pool, asked)).toEqual({ role: 'outbox_worker', name: 'outbox worker', idle: '30s' });
  });

  test('a session that hangs in a transaction longer than it may frees its rows, and its work is worth repeating', async () => {
    const [hanging, other] = [setup({ idleInTransactionMs: 50 }), setup()];
    await other.query('create table wanted (id int)');
    await other.query('insert into wanted values (1)');
    const error = await failureOf(
      withTransaction(hanging, async (client) => {
        await client.query('update wanted set id = 2');
        expect(await one(other, 'update wanted set id = 3 returning id')).toEqual({ id: 3 });
        await client.query('select 1');
      }),
    );
    expect(isConnectionError(error)).toBe(true);
    expect(await one(other, 'select id from wanted')).toEqual({ id: 3 });
  });

  test('its plans read and sort whole tables only when they may', async () => {
    const asked = `
      select current_user as role, current_setting('enable_seqscan') as all, current_setting('enable_bitmapscan') as many,
        current_setting('plan_cache_mode') as kept`;
    expect(await one(setup({ role: 'outbox_bridge' }), asked)).toEqual({
      role: 'outbox_bridge',
      all: 'on',
      many: 'on',
      kept: 'auto',
    });
    const indexed = setup({ role: 'outbox_bridge', preferIndexes: true });
    expect(await one(indexed, asked)).toEqual({
      role: 'outbox_bridge',
      all: 'off',
      many: 'off',
      kept: 'force_generic_plan',
    });
  });

  test('a connection parses a statement with values once', async () => {
    const pool = setup({ max: 1 });
    for (const n of [1, 2, 3]) expect(await one(pool, 'select $1::int as n', [n])).toEqual({ n });
    await pool.query('select 4');
    const { rows } = await pool.query('select name, statement from pg_prepared_statements');
    // By its text: what one process has prepared on a session is no other statement of the next one.
    expect(rows).toEqual([{ name: 'outbox_0da9be2ebeb524a87e44db53c985f7c7', statement: 'select $1::int as n' }]);
  });

  test('behind a transaction pooler nothing is prepared and no session is tuned', async () => {
    const pool = setup({ max: 1, pooled: true, preferIndexes: true });
    expect(await one(pool, 'select $1::int as n', [1])).toEqual({ n: 1 });
    const asked = `
      select current_setting('jit') as jit, current_setting('enable_seqscan') as all,
        (select count(*)::int from pg_prepared_statements) as prepared`;
    expect(await one(pool, asked)).toEqual({ jit: 'on', all: 'on', prepared: 0 });
  });

  test('after a column has changed its type, a statement works again on its second try, in a transaction too', async () => {
    const pool = setup({ max: 1 });
    await pool.query('create table changed (v int)');
    const ask = () => withTransaction(pool, (client) => client.query('select v from changed where v = $1', [1]));
    for (const type of ['bigint', 'numeric']) {
      await ask();
      await pool.query(`alter table changed alter v type ${type}`);
      expect(isContention(await failureOf(ask()))).toBe(true);
    }
    await ask();
  });

  test('with a lock time-out a statement that waits for a lock fails, as contention and not as an outage', async () => {
    const holder = await setup().connect();
    await holder.query('begin; lock table outbox.meta in access exclusive mode');
    const error = await failureOf(setup({ lockTimeoutMs: 20 }).query('select 1 from outbox.meta'));
    await holder.query('rollback');
    holder.release();
    expect([codeOf(error), isContention(error), isConnectionError(error)]).toEqual([
      SQLSTATE.lockNotAvailable,
      true,
      false,
    ]);
  });
});

describe('withTransaction', () => {
  test('what its work wrote is there once it has returned', async () => {
    const pool = setup();
    await pool.query('create table kept (id int)');
    const returned = await withTransaction(pool, async (client) => {
      await client.query('insert into kept values (1)');
      expect(await one(pool, 'select count(*)::int as n from kept')).toEqual({ n: 0 });
      return 'done';
    });
    expect(returned).toBe('done');
    expect(await one(pool, 'select count(*)::int as n from kept')).toEqual({ n: 1 });
  });

  test('work that throws leaves nothing, and its error is the one thrown', async () => {
    const pool = setup();
    await pool.query('create table dropped (id int)');
    const failing = withTransaction(pool, async (client) => {
      await client.query('insert into dropped values (1)');
      throw new Error('changed my mind');
    });
    await expect(failing).rejects.toThrow('changed my mind');
    expect(await one(pool, 'select count(*)::int as n from dropped')).toEqual({ n: 0 });
  });

  test('a connection that broke is not given to the next', async () => {
    const pool = setup({ max: 1 });
    const failing = withTransaction(pool, (client) => client.query('select pg_terminate_backend(pg_backend_pid())'));
    expect(isConnectionError(await failureOf(failing))).toBe(true);
    expect(await one(pool, 'select 1 as n')).toEqual({ n: 1 });
  });
});

describe('codeOf and isConnectionError', () => {
  test('a statement that is wrong is no outage', async () => {
    const error = await failureOf(setup().query('select 1 from no_such_table'));
    expect([codeOf(error), isConnectionError(error)]).toEqual([SQLSTATE.undefinedTable, false]);
  });

  test('of several errors in one, the first counts', () => {
    const refused = Object.assign(new Error('refused'), { code: 'ECONNREFUSED' });
    expect(codeOf(new AggregateError([refused]))).toBe('ECONNREFUSED');
    expect(codeOf('no error at all')).toBe('');
  });
});

import pg from 'pg';
import { ConfigError, UnavailableError } from './errors.ts';
import { SECOND } from './durations.ts';
import { PreparingClient } from './prepared-statements.ts';

export type Pool = pg.Pool;
export type PoolClient = pg.PoolClient;

/** Anything a statement can be sent to: a pool, a client, or the transaction of a job. */
export interface Queryable {
  query<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<pg.QueryResult<Row>>;
}

/** SQLSTATEs this product reacts to. */
export const SQLSTATE = {
  lockNotAvailable: '55P03',
  deadlockDetected: '40P01',
  serializationFailure: '40001',
  undefinedTable: '42P01',
  insufficientPrivilege: '42501',
  /** Ours: `outbox.enqueue` was given a name that is not in `outbox.job_types`. */
  unknownJob: 'OB001',
} as const;

export interface PoolOptions {
  url: string;
  /** Shown in `pg_stat_activity`. */
  applicationName: string;
  max: number;
  /** Role to take after login, so that a process can do no more than its part. */
  role?: string | undefined;
  /** A statement that waits longer than this for somebody's lock fails with SQLSTATE 55P03. Default: it waits. */
  lockTimeoutMs?: number;
  /**
   * A statement without an answer for this long has failed, and its connection is thrown away. Without it a half-open
   * connection would hang for as long as the kernel keeps trying: 15 minutes. Default 30 s.
   */
  queryTimeoutMs?: number;
  /**
   * A session that does nothing inside a transaction for this long is ended by the server, and loses its locks: behind a
   * half-open connection nobody else would end it. Its next statement is a connection error. Default 30 s.
   */
  idleInTransactionMs?: number;
  /**
   * True: plans follow an index where there is one, and are kept whatever the values are. For statements that always want a
   * few rows by an index, of tables that grow and empty within seconds: statistics lag behind, and a plan made from them
   * reads and sorts everything for each batch; and planning takes longer than carrying out. A table that such a statement
   * reads without an index spoils its plan. Default false.
   */
  preferIndexes?: boolean;
  /**
   * True behind a transaction pooler, where the next transaction may be sent to another session: then nothing is prepared, and
   * no session is tuned. Default false.
   */
  pooled?: boolean;
  onError: (error: Error) => void;
}

/** A broken connection is noticed within this time, not after the kernel's two hours. */
const KEEPALIVE_MS = 10 * SECOND;

const QUERY_TIMEOUT_MS = 30 * SECOND;

const IDLE_IN_TRANSACTION_MS = 30 * SECOND;

/**
 * A pool whose sessions cannot hold locks for ever, notice a dead peer, and parse a statement with values only once. Nothing
 * connects before the first query.
 */
export function createPool(options: PoolOptions): Pool {
  const { url, applicationName, max, lockTimeoutMs, pooled = false, onError } = options;
  const { queryTimeoutMs = QUERY_TIMEOUT_MS, idleInTransactionMs = IDLE_IN_TRANSACTION_MS } = options;
  const settings = sessionSettings(options);
  const pool = new pg.Pool({
    ...(pooled ? {} : { Client: PreparingClient }),
    connectionString: url,
    application_name: applicationName,
    max,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_MS,
    connectionTimeoutMillis: 5 * SECOND,
    query_timeout: queryTimeoutMs,
    idle_in_transaction_session_timeout: idleInTransactionMs,
    ...(lockTimeoutMs === undefined ? {} : { lock_timeout: lockTimeoutMs }),
    options: settings,
  });
  pool.on('error', onError);
  // The pool listens to idle clients only: a connection that breaks while it is checked out would end the process.
  pool.on('connect', (client) => client.on('error', onError));
  return pool;
}

function sessionSettings({ role, preferIndexes = false, pooled = false }: PoolOptions): string {
  const settings = [
    ...(role === undefined ? [] : [`role=${role}`]),
    // Compiling pays for reports over millions of rows. Here only a wrong estimate sets it off, and it costs 100 ms.
    ...(pooled ? [] : ['jit=off']),
    ...(preferIndexes && !pooled
      ? ['enable_seqscan=off', 'enable_bitmapscan=off', 'plan_cache_mode=force_generic_plan']
      : []),
  ];
  return settings.map((setting) => `-c ${setting}`).join(' ');
}

export interface TransactionOptions {
  /**
   * True: the commit does not wait for the disk. When the database server crashes within the next moment the transaction
   * never was, though whoever asked was told that it was committed; nothing that was committed after it is kept then.
   */
  mayBeLost?: boolean;
}

/** Runs `work` in one transaction on one connection: committed when it returns, rolled back when it throws. */
export async function withTransaction<T>(
  pool: Pool,
  work: (client: PoolClient) => Promise<T>,
  { mayBeLost = false }: TransactionOptions = {},
): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query(mayBeLost ? 'begin; set local synchronous_commit = off' : 'begin');
    const result = await work(client);
    await client.query('commit');
    return result;
  } catch (error) {
    // On a connection that does not answer a rollback would not be answered either, for as long again.
    if (isUnanswered(error)) broken = error;
    else await client.query('rollback').catch((rollbackError: Error) => (broken = rollbackError));
    if (isStalePlan(error)) broken = error;
    throw error;
  } finally {
    client.release(broken);
  }
}

/** `host:port/database` of a connection URL, without its credentials. */
export function describeUrl(url: string): string {
  const { host, pathname } = new URL(url);
  return host + pathname;
}

/** Throws `UnavailableError` or `ConfigError`, one line each, when Postgres cannot be used with these settings. */
export async function assertPostgresReachable(pool: Pool, url: string): Promise<void> {
  try {
    await pool.query('select 1');
  } catch (error) {
    const where = describeUrl(url);
    const reason = error instanceof Error ? error.message || codeOf(error) : String(error);
    if (isConnectionError(error)) {
      throw new UnavailableError(
        `Postgres at ${where} does not answer (${reason}). Start it, or point DATABASE_URL elsewhere.`,
        { cause: error },
      );
    }
    throw new ConfigError(`Postgres at ${where} refuses us (${reason}). Check DATABASE_URL and DATABASE_ROLE.`, {
      cause: error,
    });
  }
}

/** SQLSTATE or Node's error code, or an empty string. */
export function codeOf(error: unknown): string {
  if (error instanceof AggregateError) return codeOf(error.errors[0]);
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

/**
 * Node's network errors, and of SQLSTATE: 08 connection, 25006 a primary that became a standby, 25P03 a session ended because it
 * hung in a transaction, 53 out of resources (disk, memory, connections), 57 an operator (restart, cancel), 58 the system under the server.
 */
const AWAY_CODES = /^(ECONN|ENOTFOUND|EAI_AGAIN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|08|25006|25P03|53|57|58)/;

/** What `pg` says without a code. */
const AWAY_MESSAGES =
  /Connection terminated|timeout exceeded when trying to connect|Query read timeout|not queryable|Client was closed/;

/** True when the statement may be tried again later because the server or the way to it was the trouble. */
export function isConnectionError(error: unknown): boolean {
  return AWAY_CODES.test(codeOf(error)) || (error instanceof Error && AWAY_MESSAGES.test(error.message));
}

/**
 * True when repeating the transaction may well succeed: a lock was held, two transactions met, or somebody changed the type
 * of a column that a prepared statement reads.
 */
export function isContention(error: unknown): boolean {
  const contention: string[] = [SQLSTATE.lockNotAvailable, SQLSTATE.deadlockDetected, SQLSTATE.serializationFailure];
  return contention.includes(codeOf(error)) || isStalePlan(error);
}

/** A statement had no answer within the time it was given. `pg` says so without a code. */
function isUnanswered(error: unknown): error is Error {
  return error instanceof Error && error.message === 'Query read timeout';
}

/**
 * "cached plan must not change result type", told by the place in the server, since the sentence is in the server's language.
 * The connection that said so would say it again: it is not used any more.
 */
function isStalePlan(error: unknown): error is Error {
  return error instanceof Error && 'routine' in error && error.routine === 'RevalidateCachedQuery';
}

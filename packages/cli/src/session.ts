import { userInfo } from 'node:os';
import {
  assertInstallation,
  assertPostgresReachable,
  codeOf,
  createPool,
  isConnectionError,
  isContention,
  loadConfig,
  RefusedError,
  SECOND,
  sharedSettings,
  SQLSTATE,
  withQueueBackend,
  type Actor,
  type Pool,
  type SharedSettings,
} from '@outbox/core';

/** The environment, as settings are read from it. */
export type Environment = Record<string, string | undefined>;

export interface Session {
  pool: Pool;
  settings: SharedSettings;
  actor: Actor;
}

/** A row that a transaction in progress holds is not waited for longer. */
const LOCK_TIMEOUT_MS = 5 * SECOND;

/** Runs `work` with a connection to the database of this installation; refuses one of another. */
export function withSession(env: Environment, work: (session: Session) => Promise<void>): Promise<void> {
  return withAnyDatabase(env, async (session) => {
    await assertInstallation(session.pool, session.settings);
    await work(session);
  });
}

/** The same, whichever installation the database belongs to. */
export async function withAnyDatabase(env: Environment, work: (session: Session) => Promise<void>): Promise<void> {
  const settings = loadConfig(sharedSettings, env);
  const { DATABASE_URL: url, DATABASE_ROLE: role, DATABASE_POOLED: pooled } = settings;
  const pool = createPool({
    url,
    role,
    pooled,
    applicationName: 'outbox cli',
    max: 2,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    onError: () => undefined, // whoever uses the connection is told by the query
  });
  try {
    await assertPostgresReachable(pool, url);
    await work({ pool, settings, actor: operator() });
  } finally {
    await pool.end();
  }
}

/** Who runs the command, as the system knows them; a container may run a user without a name. */
function operator(): Actor {
  return { name: userName(), role: 'operator' };
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.getuid?.() ?? 'unknown'}`;
  }
}

/** What happened and what to do, for people. */
export function explain(error: unknown): string {
  if (error instanceof RefusedError) return error.hint === undefined ? error.message : `${error.message} ${error.hint}`;
  if (!(error instanceof Error)) return String(error);
  if (codeOf(error) === SQLSTATE.insufficientPrivilege) {
    return `The database does not allow this (${error.message}). Set DATABASE_ROLE=outbox_api, or leave it blank as a login that may do more.`;
  }
  if (isContention(error))
    return 'A transaction in progress holds this row. Nothing was changed; try again in a moment.';
  if (isConnectionError(error))
    return `Postgres or Redis does not answer (${error.message}). Check DATABASE_URL and REDIS_URL.`;
  return error.message;
}

/** For what needs the queue backend; all else works without one. Throws `ConfigError`. */
export function requireRedisUrl(settings: SharedSettings): void {
  loadConfig(withQueueBackend(sharedSettings), { ...settings, DATABASE_POOLED: String(settings.DATABASE_POOLED) });
}

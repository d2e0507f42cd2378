import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Pool } from '@outbox/core';
import { findRedisServer, startLocalPostgres, startLocalRedis } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { onServer, TEMPLATE_VARIABLE, urlOfDatabase } from './test-server.ts';

/** Speed instead of safety: this data is thrown away. */
const TEST_SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  max_connections: '200',
  // A killed service's session ends although it waits for a lock.
  client_connection_check_interval: '1s',
};

/** What a run of the tests has started, the last first. */
interface TestRun {
  undo: (() => Promise<unknown>)[];
  /** What to say when a failed run keeps its data. */
  notes: string[];
}

const testRun: TestRun = { undo: [], notes: [] };

/**
 * Starts a private PostgreSQL (unless DATABASE_URL is set) and Redis (unless REDIS_URL is set), migrates a template
 * database, and leaves their addresses in this process's environment, which the test processes inherit.
 */
export async function startTestRun(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-test-'));
  // Root's PostgreSQL runs as somebody else, who must be able to pass.
  await chmod(folder, 0o755);
  testRun.undo.push(() => rm(folder, { recursive: true, force: true }));
  process.env.DATABASE_URL ||= await startPostgres(join(folder, 'postgres'));
  process.env.REDIS_URL ||= await startRedis(join(folder, 'redis'));
  process.env[TEMPLATE_VARIABLE] = await createTemplate(process.env.DATABASE_URL);
}

/** Stops and removes all of it, or, when `keep`, says where it is. May be called again. */
export async function endTestRun(keep: boolean): Promise<void> {
  const steps = testRun.undo.splice(0).reverse();
  if (keep) await printNotes();
  else for (const step of steps) await step();
}

async function printNotes(): Promise<void> {
  const { DATABASE_URL: server, [TEMPLATE_VARIABLE]: template } = process.env;
  const databases = server && template ? await onServer(server, (pool) => databasesOf(pool, template)) : [];
  console.log(
    ['Kept, as KEEP=1 asks:', ...testRun.notes, ...databases.map((name) => `Database: ${name}`)].join('\n  '),
  );
}

async function startPostgres(dataDir: string): Promise<string> {
  const postgres = await startLocalPostgres({ dataDir, settings: TEST_SETTINGS, log: console.log });
  testRun.undo.push(async () => {
    await postgres.stop();
    await rm(postgres.dataDir, { recursive: true, force: true });
  });
  testRun.notes.push(`PostgreSQL: ${postgres.url} (kill -INT ${postgres.pid}; rm -r ${postgres.dataDir})`);
  return postgres.url;
}

async function startRedis(dataDir: string): Promise<string> {
  const binary = await findRedisServer();
  if (binary === undefined) {
    throw new Error('The tests need a real Redis: run them with "npm test", which installs it, or set REDIS_URL.');
  }
  const redis = await startLocalRedis({ binary, dataDir, persistent: false });
  testRun.undo.push(() => redis.stop());
  testRun.notes.push(`Redis: ${redis.url} (kill ${redis.pid}; rm -r ${dataDir})`);
  return redis.url;
}

/** A migrated database that nobody may enter, so that it can always be cloned. Its clones begin with its name. */
async function createTemplate(url: string): Promise<string> {
  const name = `outbox_test_${randomBytes(4).toString('hex')}`;
  await onServer(url, (pool) => pool.query(`create database ${name}`));
  testRun.undo.push(() => onServer(url, (pool) => dropDatabases(pool, name)));
  const databaseUrl = urlOfDatabase(url, name);
  await migrate({ databaseUrl, instance: 'test', backend: 'redis', timings: 'production', host: true });
  await onServer(url, (pool) => pool.query(`alter database ${name} allow_connections false`));
  return name;
}

/** The template and whatever clones are left of it. */
async function dropDatabases(pool: Pool, template: string): Promise<void> {
  for (const name of await databasesOf(pool, template)) await pool.query(`drop database ${name} with (force)`);
}

async function databasesOf(pool: Pool, template: string): Promise<string[]> {
  const { rows } = await pool.query<{ datname: string }>(
    'select datname from pg_database where starts_with(datname, $1)',
    [template],
  );
  return rows.map(({ datname }) => datname);
}

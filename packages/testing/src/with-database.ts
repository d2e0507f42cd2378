import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, createPool, SECOND, type Pool } from '@outbox/core';
import { onServer, TEMPLATE_VARIABLE, urlOfDatabase } from './test-server.ts';
import { waitFor } from './wait-for.ts';

/** SQLSTATE object_in_use: somebody, autovacuum for one, is in the template just now. */
const OBJECT_IN_USE = '55006';
const CLONE_TRIES = 50;
const CLONE_RETRY_MS = 100;

/** Sessions of a killed process take a moment to end. */
const SESSIONS_END_WITHIN_MS = 5 * SECOND;

export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  /** Ten connections as the superuser. Its users are the test; `drop` ends it. */
  readonly pool: Pool;
  /** Drops the database, and fails when somebody is still connected to it. With KEEP=1 it stays. */
  drop(): Promise<void>;
}

/** An empty, migrated database of one's own. Takes some 50 ms. Tests call it in `beforeEach` or `beforeAll`. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const { server, template } = testServer();
  const name = cloneName(template);
  await onServer(server, (admin) => cloneTemplate(admin, template, name));
  const url = urlOfDatabase(server, name);
  // A test that cuts its connections learns of it from its queries.
  const pool = createPool({ url, applicationName: 'outbox test', max: 10, onError: () => undefined });
  const drop = async () => {
    await pool.end();
    if (process.env.KEEP !== '1') await onServer(server, (admin) => dropUnused(admin, name));
  };
  return { url, name, pool, drop };
}

/** Says which test file it was made for: with KEEP=1 somebody will look for it. */
function cloneName(template: string): string {
  const file = (globalThis.outboxTestFile ?? '')
    .replace('.test.ts', '')
    .replaceAll(/[^a-z0-9]+/gi, '_')
    .slice(0, 24);
  return `${template}_${file.toLowerCase()}_${randomBytes(4).toString('hex')}`;
}

function testServer(): { server: string; template: string } {
  const { DATABASE_URL: server, [TEMPLATE_VARIABLE]: template } = process.env;
  if (server && template) return { server, template };
  throw new Error('No test database has been prepared: run the tests with "npm test".');
}

async function cloneTemplate(admin: Pool, template: string, name: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await admin.query(`create database ${name} template ${template}`);
      return;
    } catch (error) {
      if (codeOf(error) !== OBJECT_IN_USE || attempt === CLONE_TRIES) throw error;
    }
    await sleep(CLONE_RETRY_MS);
  }
}

async function dropUnused(admin: Pool, name: string): Promise<void> {
  try {
    await waitFor(() => assertUnused(admin, name), { timeoutMs: SESSIONS_END_WITHIN_MS });
  } finally {
    await admin.query(`drop database if exists ${name} with (force)`);
  }
}

async function assertUnused(admin: Pool, name: string): Promise<void> {
  const { rows } = await admin.query<{ application_name: string }>(
    `select application_name from pg_stat_activity where datname = $1 and backend_type = 'client backend'`,
    [name],
  );
  const users = rows.map((row) => row.application_name).join(', ');
  if (users !== '') throw new Error(`Still connected to the test's database: ${users}. Close it before drop().`);
}

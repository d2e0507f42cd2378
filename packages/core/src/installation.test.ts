import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { loadConfig, sharedSettings } from './config.ts';
import { ConfigError } from './errors.ts';
import { assertInstallation, SCHEMA_VERSION } from './installation.ts';

let database: TestDatabase;
beforeEach(async () => void (database = await createTestDatabase()));
afterEach(() => database.drop());

/** Lets a service of instance "test" on Redis look at the database, after `sql` has changed it. */
async function setup(sql = '', settings: Record<string, string> = {}): Promise<void> {
  if (sql) await database.pool.query(sql);
  const env = { DATABASE_URL: database.url, REDIS_URL: 'redis://localhost', OUTBOX_INSTANCE: 'test', ...settings };
  return assertInstallation(database.pool, loadConfig(sharedSettings, env));
}

async function refusalOf(checked: Promise<void>): Promise<string> {
  const error = await checked.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ConfigError)) throw new Error(`Expected a ConfigError, got ${String(error)}`);
  expect(error.message).not.toContain('\n');
  return error.message;
}

describe('assertInstallation', () => {
  test('a database of this instance, backend and schema is accepted', async () => {
    await expect(setup()).resolves.toBeUndefined();
  });

  test('so is a newer schema: the database is migrated before the processes are replaced', async () => {
    await expect(setup('update outbox.meta set schema_version = schema_version + 1')).resolves.toBeUndefined();
  });

  test('a database without the schema is refused with the command that makes it', async () => {
    expect(await refusalOf(setup('drop schema outbox cascade'))).toBe(
      'This database has no outbox schema yet: run "npm run migrate".',
    );
  });

  test('a schema that is there but was never completed counts as missing', async () => {
    expect(await refusalOf(setup('delete from outbox.meta'))).toContain('no outbox schema yet');
  });

  test('a copy of another instance is refused, both named', async () => {
    expect(await refusalOf(setup('', { OUTBOX_INSTANCE: 'staging' }))).toBe(
      'This database belongs to instance "test", but OUTBOX_INSTANCE is "staging". ' +
        'If it is a copy, run "npm run migrate -- --claim-instance" on the copy first.',
    );
  });

  test('a database that another backend serves is refused, both named', async () => {
    expect(await refusalOf(setup('', { QUEUE_BACKEND: 'postgres' }))).toBe(
      'This database is served by QUEUE_BACKEND=redis, but this process is set to postgres. ' +
        'To switch, stop all processes and run "npm run migrate" with the new setting.',
    );
  });

  test('an older schema is refused with both versions', async () => {
    expect(await refusalOf(setup('update outbox.meta set schema_version = 0'))).toBe(
      `The outbox schema is at version 0, this code needs ${SCHEMA_VERSION}: run "npm run migrate".`,
    );
  });

  test('a database that cannot be read is not taken for one without the schema', async () => {
    await database.pool.query('alter table outbox.meta rename column instance to renamed');
    await expect(setup()).rejects.toMatchObject({ code: '42703' });
  });
});

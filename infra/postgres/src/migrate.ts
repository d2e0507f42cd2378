import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runMigrations } from 'bullmq';
import pg from 'pg';
import {
  ConfigError,
  describeUrl,
  isConnectionError,
  SCHEMA_VERSION,
  UnavailableError,
  type TimingsName,
} from '@outbox/core';
import { definitionsOf, families, type Family, type FamilyName } from '@outbox/jobs';
import { syncJobTypes } from './job-types.ts';

export interface MigrateOptions {
  databaseUrl: string;
  /** Name of this installation, kept in outbox.meta; a database that has another one is refused. */
  instance: string;
  backend: 'redis' | 'postgres';
  /** Which timings the jobs get. An operator's own (operator_ columns) are never touched. */
  timings: TimingsName;
  /** Families to install and keep up to date; the others are left as they are. All by default. */
  families?: readonly FamilyName[];
  /** Also install the stand-in for the host application (development and tests only). */
  host?: boolean;
  /** Make a copied database ours: it takes the name in `instance`. */
  claimInstance?: boolean;
  /** One line per thing done. */
  log?: (line: string) => void;
}

/** Held while migrating, so that several starts at once take turns. The number is arbitrary. */
const MIGRATION_LOCK = 122524661739385;

/**
 * Brings the database to this code's schema: numbered migrations once; roles, functions, triggers and views again when
 * their text changed; the job catalogue always. Idempotent; safe when several start at once. Each file is one
 * transaction, so a failure leaves the ones before it done and nothing half. Throws `ConfigError` or `UnavailableError`.
 */
export async function migrate(options: MigrateOptions): Promise<void> {
  const client = await connect(options.databaseUrl);
  try {
    await client.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await assertOwnInstance(client, options);
    await applyAll(client, options);
  } finally {
    await client.end();
  }
}

async function applyAll(client: pg.Client, options: MigrateOptions): Promise<void> {
  const log = options.log ?? (() => undefined);
  await client.query(await readFile(sourcePath('roles.sql'), 'utf8'));
  await client.query(CREATE_LEDGER);
  const ledger = new Ledger(client, await readLedger(client), log);

  if (options.host) await ledger.applyNumbered('host');
  await ledger.applyNumbered('migrations', OWNER);
  await writeMeta(client, options);
  await ledger.reapplyChanged('functions', await sqlFiles('functions'), OWNER);
  const wanted = families.filter(({ name }) => options.families?.includes(name) ?? true);
  const names = wanted.map(({ name }) => name);
  await syncJobTypes(client, definitionsOf(names), options.timings);
  for (const family of wanted) await installFamily(client, ledger, family, log);

  if (options.backend === 'postgres') await migrateQueueBackend(client);
  await switchBackend(client, options.backend, log);
}

const OWNER = 'outbox_owner';

const CREATE_LEDGER = /* sql */ `
  create table if not exists outbox.applied_files (
    name text primary key,
    hash text not null,
    applied_at timestamptz not null default now()
  );
  alter table outbox.applied_files owner to ${OWNER}`;

/** A trigger on a busy table waits for its writers, and new writers wait behind it: rather fail, and be run again. */
const LOCK_TIMEOUT = '5s';

type Applied = Map<string, string>;

async function readLedger(client: pg.Client): Promise<Applied> {
  const { rows } = await client.query<{ name: string; hash: string }>('select name, hash from outbox.applied_files');
  return new Map(rows.map(({ name, hash }) => [name, hash]));
}

interface SqlFile {
  /** Folder and file, e.g. `migrations/0001_outbox.sql`. */
  name: string;
  text: string;
  hash: string;
}

class Ledger {
  readonly #client: pg.Client;
  readonly #applied: Applied;
  readonly #log: (line: string) => void;

  constructor(client: pg.Client, applied: Applied, log: (line: string) => void) {
    this.#client = client;
    this.#applied = applied;
    this.#log = log;
  }

  /** Files that change tables: each once, in order of their numbers, never edited afterwards. */
  async applyNumbered(folder: string, role?: string): Promise<void> {
    await this.applyOnce(await sqlFiles(folder), role);
  }

  async applyOnce(files: SqlFile[], role?: string): Promise<void> {
    for (const file of files) {
      const hash = this.#applied.get(file.name);
      if (hash === undefined) await this.#apply([file], role);
      else if (hash !== file.hash) {
        throw new ConfigError(
          `${file.name} was changed after it had been applied to this database. Restore it and add a new file instead.`,
        );
      }
    }
  }

  /** Files of functions, triggers and views: all of the group again when one of them changed, in one transaction. */
  async reapplyChanged(group: string, files: SqlFile[], role?: string): Promise<void> {
    // New tables, and roles of Supabase's that were not there before, need their grants.
    const texts = [...files, ...(await sqlFiles('migrations'))].map((file) => file.hash);
    const hash = sha256([...texts, ...(await this.#grantees())].join());
    if (this.#applied.get(group) !== hash) await this.#apply(files, role, { name: group, hash });
  }

  async #grantees(): Promise<string[]> {
    const { rows } = await this.#client.query<{ name: string }>(
      "select rolname as name from pg_roles where rolname in ('anon', 'authenticated', 'service_role') order by rolname",
    );
    return rows.map(({ name }) => name);
  }

  async #apply(files: SqlFile[], role: string | undefined, group?: { name: string; hash: string }): Promise<void> {
    let current = '';
    try {
      await this.#client.query('begin');
      await this.#client.query(`set local lock_timeout = '${LOCK_TIMEOUT}'`);
      for (const file of files) {
        current = file.name;
        if (role) await this.#client.query(`set local role ${role}`);
        await this.#client.query(file.text);
        await this.#client.query('reset role');
      }
      for (const { name, hash } of group ? [group] : files) await this.#record(name, hash);
      await this.#client.query('commit');
    } catch (error) {
      await this.#client.query('rollback');
      throw new ConfigError(
        `${current} could not be applied: ${error instanceof Error ? error.message : String(error)}`,
        {
          cause: error,
        },
      );
    }
    this.#log(`applied ${group?.name ?? current}`);
  }

  async #record(name: string, hash: string): Promise<void> {
    await this.#client.query(
      /* sql */ `
      insert into outbox.applied_files (name, hash) values ($1, $2)
      on conflict (name) do update set hash = excluded.hash, applied_at = now()`,
      [name, hash],
    );
  }
}

async function installFamily(
  client: pg.Client,
  ledger: Ledger,
  family: Family,
  log: (line: string) => void,
): Promise<void> {
  const { rows } = await client.query<{ missing: string }>(
    'select name as missing from unnest($1::text[]) as t (name) where to_regclass(name) is null',
    [family.hostTables],
  );
  if (rows.length > 0) {
    log(`left out ${family.name}: this database has no ${rows.map(({ missing }) => missing).join(', ')}`);
    return;
  }
  const folder = `families/${family.name}`;
  const read = (urls: URL[]) => Promise.all(urls.map((url) => readSqlFile(fileURLToPath(url), folder)));
  await ledger.applyOnce(await read(family.migrations ?? []));
  await ledger.reapplyChanged(folder, await read(family.sql));
}

/** Refuses a database that belongs to another installation, before anything is changed in it. */
async function assertOwnInstance(client: pg.Client, { instance, claimInstance }: MigrateOptions): Promise<void> {
  const { rows: found } = await client.query<{ exists: boolean }>(
    "select to_regclass('outbox.meta') is not null as exists",
  );
  if (!found[0]?.exists || claimInstance) return;
  const { rows } = await client.query<{ instance: string }>('select instance from outbox.meta limit 1');
  const owner = rows[0]?.instance ?? instance;
  if (owner === instance) return;
  throw new ConfigError(
    `This database belongs to instance "${owner}", but OUTBOX_INSTANCE is "${instance}". If it is a copy that should ` +
      'act on its own, run "npm run migrate -- --claim-instance"; its open jobs will then run here too.',
  );
}

async function writeMeta(client: pg.Client, { instance, backend }: MigrateOptions): Promise<void> {
  await client.query(
    /* sql */ `
    insert into outbox.meta (instance, backend, schema_version) values ($1, $2, $3)
    on conflict (only_row) do update
    set instance = excluded.instance, schema_version = greatest(meta.schema_version, excluded.schema_version)`,
    [instance, backend, SCHEMA_VERSION],
  );
}

async function switchBackend(client: pg.Client, backend: string, log: (line: string) => void): Promise<void> {
  const { rows } = await client.query<{ backend: string }>('select backend from outbox.meta');
  if (rows[0]?.backend === backend) return;
  const switched = await client.query<{ returned: string }>('select outbox.switch_backend($1) as returned', [backend]);
  log(`switched the queue backend to ${backend}; ${switched.rows[0]?.returned} open jobs will be published again`);
}

/** BullMQ's own schema, for QUEUE_BACKEND=postgres. */
async function migrateQueueBackend(client: pg.Client): Promise<void> {
  await runMigrations(client);
}

async function connect(databaseUrl: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'outbox migrate' });
  try {
    await client.connect();
    return client;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const where = describeUrl(databaseUrl);
    throw isConnectionError(error)
      ? new UnavailableError(`Postgres at ${where} does not answer (${reason}). Start it, or correct DATABASE_URL.`)
      : new ConfigError(`Postgres at ${where} refuses us (${reason}). Correct DATABASE_URL.`);
  }
}

/** SQL is read from the source folder, wherever this module runs from (src in tests, dist otherwise). */
function sourcePath(path: string): string {
  return fileURLToPath(new URL(`../${path}`, import.meta.url));
}

async function sqlFiles(folder: string): Promise<SqlFile[]> {
  const names = (await readdir(sourcePath(folder))).filter((name) => name.endsWith('.sql')).sort();
  return Promise.all(names.map((name) => readSqlFile(sourcePath(`${folder}/${name}`), folder)));
}

async function readSqlFile(path: string, folder: string): Promise<SqlFile> {
  const text = await readFile(path, 'utf8');
  return { name: `${folder}/${basename(path)}`, text, hash: sha256(text) };
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

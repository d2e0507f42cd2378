import { ConfigError } from './errors.ts';
import { codeOf, SQLSTATE, type Queryable } from './postgres.ts';
import type { SharedSettings } from './config.ts';

/** The newest numbered migration this code was written against. */
export const SCHEMA_VERSION = 9;

interface Meta {
  instance: string;
  backend: string;
  schema_version: number;
}

/**
 * Refuses to act on a database that is not ours: one that was copied from another installation, that another queue
 * backend serves, or that is not migrated far enough. Throws `ConfigError`, one line, with what to do.
 */
export async function assertInstallation(db: Queryable, settings: SharedSettings): Promise<void> {
  const meta = await readMeta(db);
  if (meta.schema_version < SCHEMA_VERSION) {
    throw new ConfigError(
      `The outbox schema is at version ${meta.schema_version}, this code needs ${SCHEMA_VERSION}: run "npm run migrate".`,
    );
  }
  if (meta.instance !== settings.OUTBOX_INSTANCE) {
    throw new ConfigError(
      `This database belongs to instance "${meta.instance}", but OUTBOX_INSTANCE is "${settings.OUTBOX_INSTANCE}". ` +
        'If it is a copy, run "npm run migrate -- --claim-instance" on the copy first.',
    );
  }
  if (meta.backend !== settings.QUEUE_BACKEND) {
    throw new ConfigError(
      `This database is served by QUEUE_BACKEND=${meta.backend}, but this process is set to ${settings.QUEUE_BACKEND}. ` +
        'To switch, stop all processes and run "npm run migrate" with the new setting.',
    );
  }
}

async function readMeta(db: Queryable): Promise<Meta> {
  try {
    const { rows } = await db.query<Meta>('select instance, backend, schema_version from outbox.meta limit 1');
    if (rows[0]) return rows[0];
  } catch (error) {
    if (codeOf(error) !== SQLSTATE.undefinedTable) throw error;
  }
  throw new ConfigError('This database has no outbox schema yet: run "npm run migrate".');
}

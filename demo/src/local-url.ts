import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError } from '@outbox/core';

const FILE = join(process.env.OUTBOX_HOME || join(import.meta.dirname, '../../.outbox'), 'database-url');

/** Where the running demonstration's PostgreSQL is. Throws `ConfigError` when none was started. */
export async function localPostgresUrl(): Promise<string> {
  try {
    return (await readFile(FILE, 'utf8')).trim();
  } catch (error) {
    throw new ConfigError('No demonstration has been started here: run npm start first.', { cause: error });
  }
}

/** Holds a password: readable by this user alone. */
export async function noteLocalPostgresUrl(url: string): Promise<void> {
  await writeFile(FILE, url, { mode: 0o600 });
}

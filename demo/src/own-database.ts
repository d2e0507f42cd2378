import { ConfigError, type Pool } from '@outbox/core';
import { families } from '@outbox/jobs';

/**
 * `npm start` is a demonstration: it writes people who do not exist and plans jobs in seconds. In a database whose
 * auto_syncs or users are somebody's real ones it would do harm: throws `ConfigError` then.
 */
export async function assertDemonstrable(pool: Pool): Promise<void> {
  if (await ownsHostTables(pool)) return;
  throw new ConfigError(
    'This database has tables of its own that npm start would use (auto_syncs, users or the like), and it is a demonstration with invented people. ' +
      'Unset DATABASE_URL to get a private PostgreSQL, or see "Your own Postgres and Redis" in README.md.',
  );
}

/** True when the host's tables are our stand-in, or are not there yet. */
export async function ownsHostTables(pool: Pool): Promise<boolean> {
  const { rows } = await pool.query<{ hasHost: boolean; hasLedger: boolean }>(
    /* sql */ `
    select
      exists (select from unnest($1::text[]) as t (name) where to_regclass(t.name) is not null) as "hasHost",
      to_regclass('outbox.applied_files') is not null as "hasLedger"`,
    [families.flatMap(({ hostTables }) => hostTables)],
  );
  if (!rows[0]?.hasHost) return true;
  if (!rows[0].hasLedger) return false;
  const applied = await pool.query(
    "select 1 from outbox.applied_files where name = 'host/0002_auto_syncs.sql' limit 1",
  );
  return applied.rowCount === 1;
}

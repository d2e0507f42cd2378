import { ConfigError, createPool } from '@outbox/core';
import { localPostgresUrl } from './local-url.ts';

/** `npm run sql -- "select …"`: for machines without psql. Runs one statement against the demonstration's database. */
async function main(): Promise<void> {
  const statement = process.argv.slice(2).join(' ');
  if (!statement) throw new ConfigError('Give one statement, e.g. npm run sql -- "select * from reminders.job_queue"');
  const pool = createPool({
    url: process.env.DATABASE_URL || (await localPostgresUrl()),
    applicationName: 'outbox sql',
    max: 1,
    onError: () => undefined,
  });
  const { rows, command, rowCount } = await pool.query<Record<string, unknown>>(statement);
  if (rows.length > 0) console.table(rows);
  else console.log(`${command} ${rowCount ?? ''}`);
  await pool.end();
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exit(1);
});

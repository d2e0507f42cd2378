import { parseArgs } from 'node:util';
import { z } from 'zod';
import { ConfigError, loadConfig, sharedSettings, UnavailableError } from '@outbox/core';
import { familiesSetting } from '@outbox/jobs';
import { migrate } from './migrate.ts';

const settings = sharedSettings.pick({ DATABASE_URL: true, OUTBOX_INSTANCE: true, QUEUE_BACKEND: true }).extend({
  ...familiesSetting,
  TIMINGS: z
    .enum(['production', 'demo'], { error: 'must be production or demo' })
    .default('production')
    .describe('Delays the jobs get: production (hours) or demo (seconds)'),
});

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { host: { type: 'boolean' }, 'claim-instance': { type: 'boolean' } },
  });
  const config = loadConfig(settings, process.env);
  await migrate({
    databaseUrl: config.DATABASE_URL,
    instance: config.OUTBOX_INSTANCE,
    backend: config.QUEUE_BACKEND,
    timings: config.TIMINGS,
    families: config.FAMILIES,
    host: values.host,
    claimInstance: values['claim-instance'],
    log: (line) => process.stdout.write(`migrate: ${line}\n`),
  });
  process.stdout.write('migrate: the database is up to date\n');
}

main().catch((error: unknown) => {
  const mendable = error instanceof ConfigError || error instanceof UnavailableError;
  const text = error instanceof Error ? (mendable ? error.message : error.stack) : String(error);
  process.stderr.write(`migrate: ${text}\n`);
  process.exit(1);
});

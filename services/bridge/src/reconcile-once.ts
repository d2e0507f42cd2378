import {
  assertInstallation,
  assertPostgresReachable,
  ConfigError,
  connectQueueBackend,
  createLogger,
  createPool,
  loadConfig,
  UnavailableError,
} from '@outbox/core';
import { queueNames } from '@outbox/jobs';
import { bridgeSettings } from './config.ts';
import { createQueues } from './queues.ts';
import { prepareQueue } from './queue-controls.ts';
import { reconcileOnce } from './reconcile.ts';
import type { Findings } from './repairs.ts';
import { isBehindBackend, RESTORED } from './restore-guard.ts';

/**
 * `node services/bridge/dist/reconcile-once.js [--dry-run]`: compares rows with BullMQ once, prints what differs, and
 * repairs it unless told otherwise. Takes the settings of the bridge. Exit code 0 unless it could not be done.
 */
const DRY_RUN = '--dry-run';

async function main(args: string[]): Promise<void> {
  const unknown = args.find((argument) => argument !== DRY_RUN);
  if (unknown !== undefined)
    throw new ConfigError(`There is no option "${unknown}". Usage: reconcile-once [${DRY_RUN}]`);
  const dryRun = args.includes(DRY_RUN);
  const found = await reconcile(dryRun);
  console.table(found.entries().filter((entry) => entry.found > 0));
  const verb = dryRun ? 'found' : 'found and repaired';
  process.stdout.write(`${found.total} differences ${verb}.\n`);
}

async function reconcile(dryRun: boolean): Promise<Findings> {
  const settings = loadConfig(bridgeSettings, process.env);
  const { DATABASE_URL: url, DATABASE_ROLE: role, DATABASE_POOLED: pooled } = settings;
  const log = createLogger({ service: 'reconcile', level: settings.LOG_LEVEL });
  const onError = (err: Error) => log.warn({ err }, 'lost a connection');
  const pool = createPool({ url, role, pooled, applicationName: 'outbox reconcile', max: 2, onError });
  try {
    await assertPostgresReachable(pool, url);
    await assertInstallation(pool, settings);
    const backend = await connectQueueBackend(settings, onError);
    const queues = createQueues(backend);
    try {
      if (!dryRun && (await isBehindBackend(pool, backend))) throw new ConfigError(RESTORED);
      const prepare = (name: string) => prepareQueue(pool, queues.queueOf(name));
      return await reconcileOnce({ pool, backend, queues: queueNames(settings.FAMILIES), dryRun, prepare, log });
    } finally {
      await queues.close();
      await backend.close();
    }
  } finally {
    await pool.end();
  }
}

await main(process.argv.slice(2)).catch((error: unknown) => {
  const isPlain = error instanceof ConfigError || error instanceof UnavailableError;
  process.stderr.write(
    `reconcile: ${isPlain ? error.message : error instanceof Error ? error.stack : String(error)}\n`,
  );
  process.exitCode = 1;
});

import { createServer } from 'node:http';
import {
  assertInstallation,
  assertPostgresReachable,
  closeServer,
  connectQueueBackend,
  createPool,
  createProcessId,
  Heartbeat,
  listen,
  loadConfig,
  runService,
  SECOND,
} from '@outbox/core';
import { definitionsOf, queueNames } from '@outbox/jobs';
import { createApp } from './app.ts';
import { apiSettings } from './config.ts';

/** A request that waits longer for a row that a business transaction holds is answered with "send it again". */
const LOCK_TIMEOUT_MS = 2 * SECOND;

/** Requests under way get so long to finish when the process stops. */
const FINISH_REQUESTS_MS = 10 * SECOND;

await runService({
  name: 'api',
  loadSettings: () => loadConfig(apiSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async (settings, log) => {
    const { DATABASE_URL: url, DATABASE_ROLE: role, DATABASE_POOLED: pooled } = settings;
    const pool = createPool({
      url,
      role,
      pooled,
      applicationName: 'outbox api',
      max: 5,
      lockTimeoutMs: LOCK_TIMEOUT_MS,
      onError: (err) => log.warn({ err }, 'lost a Postgres connection'),
    });
    await assertPostgresReachable(pool, url);
    await assertInstallation(pool, settings);

    const backend = await connectQueueBackend(settings, (err) => log.warn({ err }, 'queue backend error'));
    const queues = queueNames(settings.FAMILIES).map((name) => backend.createQueue(name));
    const catalog = definitionsOf(settings.FAMILIES);
    const app = createApp({
      db: pool,
      catalog,
      findDefinition: (name) => catalog.find((definition) => definition.name === name),
      queues,
      families: settings.FAMILIES,
      settings,
      log,
      // Redis may be away: jobs are accepted all the same, and published later.
      checks: { postgres: async () => void (await pool.query('select 1')) },
    });
    const server = createServer(app);
    await listen(server, { host: settings.HOST, port: settings.PORT, setting: 'PORT' });
    const heartbeat = new Heartbeat({ db: pool, service: 'api', id: createProcessId(), log });
    await heartbeat.start();

    return [
      {
        name: 'requests',
        deadlineMs: FINISH_REQUESTS_MS + 1 * SECOND,
        stop: () => closeServer(server, FINISH_REQUESTS_MS),
      },
      { name: 'queues', deadlineMs: 5 * SECOND, stop: () => Promise.all(queues.map((queue) => queue.close())) },
      { name: 'heartbeat', deadlineMs: 2 * SECOND, stop: () => heartbeat.stop() },
      { name: 'connections', deadlineMs: 5 * SECOND, stop: () => Promise.all([backend.close(), pool.end()]) },
    ];
  },
});

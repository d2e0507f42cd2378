import {
  assertInstallation,
  assertPostgresReachable,
  closeServer,
  connectQueueBackend,
  createPool,
  loadConfig,
  runService,
  SECOND,
  startHealthServer,
} from '@outbox/core';
import { queueNames } from '@outbox/jobs';
import type { Queue } from 'bullmq';
import { bridgeSettings } from './config.ts';
import { Pruner } from './prune.ts';
import { Reconciler } from './reconcile.ts';
import { PublishLoop, writePublishWindow } from './publish-loop.ts';
import { Sweeper } from './sweep.ts';
import { WakeUp } from './wake-up.ts';

await runService({
  name: 'bridge',
  loadSettings: () => loadConfig(bridgeSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async (settings, log) => {
    const { DATABASE_URL: url, DATABASE_ROLE: role } = settings;
    const pool = createPool({
      url,
      role,
      applicationName: 'outbox bridge',
      max: 3,
      onError: (err) => log.warn({ err }, 'lost a Postgres connection'),
    });
    await assertPostgresReachable(pool, url);
    await assertInstallation(pool, settings);
    await writePublishWindow(pool, settings.PUBLISH_WINDOW);

    const backend = await connectQueueBackend(settings, (err) => log.warn({ err }, 'queue backend error'));
    const queues = new Map<string, Queue>();
    const queueOf = (name: string) => {
      const queue = queues.get(name) ?? backend.createQueue(name);
      queues.set(name, queue);
      return queue;
    };
    queueNames().forEach(queueOf);

    const wakeUp = settings.WAKE_UP === 'listen' ? new WakeUp({ url, role, log }) : undefined;
    const loop = new PublishLoop({
      pool,
      queueOf,
      limit: settings.PUBLISH_BATCH,
      wakeUp,
      pollMs: settings.POLL_INTERVAL,
      log,
    });
    const health = await startHealthServer(settings.HEALTH_PORT, {
      postgres: async () => void (await pool.query('select 1')),
      queues: async () => void (await backend.ping()),
      publish: () => Promise.resolve(loop.problem),
    });
    const reconciler = new Reconciler({ pool, backend, queues: queueNames(), log });
    const pruner = new Pruner(pool, log);
    const sweeper = new Sweeper({ pool, everyMs: settings.SWEEP_INTERVAL, log });
    await reconciler.start();
    loop.start();
    pruner.start();
    sweeper.start();

    return [
      { name: 'sweeping', deadlineMs: 10 * SECOND, stop: () => sweeper.stop() },
      { name: 'pruning', deadlineMs: 10 * SECOND, stop: () => pruner.stop() },
      { name: 'reconciling', deadlineMs: 10 * SECOND, stop: () => reconciler.stop() },
      { name: 'publishing', deadlineMs: 10 * SECOND, stop: () => loop.stop() },
      { name: 'health server', deadlineMs: 1 * SECOND, stop: () => closeServer(health, 0) },
      {
        name: 'queues',
        deadlineMs: 5 * SECOND,
        stop: () => Promise.all([...queues.values()].map((queue) => queue.close())),
      },
      {
        name: 'connections',
        deadlineMs: 5 * SECOND,
        stop: () => Promise.all([wakeUp?.close(), backend.close(), pool.end()]),
      },
    ];
  },
});

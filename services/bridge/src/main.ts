import {
  assertInstallation,
  assertPostgresReachable,
  closeServer,
  connectQueueBackend,
  createPool,
  createProcessId,
  Heartbeat,
  loadConfig,
  Repeater,
  runService,
  SECOND,
  startHealthServer,
} from '@outbox/core';
import { queueNames } from '@outbox/jobs';
import { bridgeSettings } from './config.ts';
import { Pruner } from './prune.ts';
import { PublishLoop } from './publish-loop.ts';
import { PublishWindow } from './publish-window.ts';
import { applyControls, prepareQueue } from './queue-controls.ts';
import { createQueues } from './queues.ts';
import { Reconciler } from './reconciler.ts';
import { RestoreGuard } from './restore-guard.ts';
import { Sweeper } from './sweep.ts';
import { WakeUp } from './wake-up.ts';

const COUNT_EVERY_MS = 1 * SECOND;
const APPLY_CONTROLS_EVERY_MS = SECOND / 2;
const ADAPT_WINDOW_EVERY_MS = 1 * SECOND;

await runService({
  name: 'bridge',
  loadSettings: () => loadConfig(bridgeSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async (settings, log) => {
    const { DATABASE_URL: url, DATABASE_ROLE: role, DATABASE_POOLED: pooled } = settings;
    const pool = createPool({
      url,
      role,
      pooled,
      applicationName: 'outbox bridge',
      max: 3,
      preferIndexes: true,
      onError: (err) => log.warn({ err }, 'lost a Postgres connection'),
    });
    await assertPostgresReachable(pool, url);
    await assertInstallation(pool, settings);

    const backend = await connectQueueBackend(settings, (err) => log.warn({ err }, 'queue backend error'));
    const queues = createQueues(backend);
    const { queueOf } = queues;
    const names = queueNames(settings.FAMILIES);
    names.forEach(queueOf);

    const guard = new RestoreGuard({ pool, backend, log });
    const heldBy = () => guard.problem;
    const window = new PublishWindow({ pool, backend, configuredMs: settings.PUBLISH_WINDOW, log });
    await window.begin();
    const prepare = (name: string) => prepareQueue(pool, queueOf(name));
    const reconciler = new Reconciler({ pool, backend, queues: names, prepare, heldBy, log });
    const wakeUp = settings.WAKE_UP === 'listen' ? new WakeUp({ url, role, log }) : undefined;
    const loop = new PublishLoop({
      pool,
      queueOf,
      limit: settings.PUBLISH_BATCH,
      wakeUp,
      pollMs: settings.POLL_INTERVAL,
      heldBy,
      fullBecause: () => window.problem,
      log,
    });
    const pruner = new Pruner({ pool, heldBy, log });
    const sweeper = new Sweeper({ pool, families: settings.FAMILIES, everyMs: settings.SWEEP_INTERVAL, heldBy, log });
    const repeat = (everyMs: number, failure: string, work: () => Promise<void>) =>
      new Repeater({ everyMs, log, failure, work });
    const counting = repeat(COUNT_EVERY_MS, 'restore counter not compared', () => guard.look());
    const controls = repeat(APPLY_CONTROLS_EVERY_MS, 'queue controls not applied', () =>
      applyControls({ pool, queues: names, queueOf, log }),
    );
    const adapting = repeat(ADAPT_WINDOW_EVERY_MS, 'publish window not adapted', () => window.adapt());

    const health = await startHealthServer(settings.HEALTH_PORT, {
      postgres: async () => void (await pool.query('select 1')),
      queues: async () => void (await backend.ping()),
      restore: () => Promise.resolve(guard.problem),
      publish: () => Promise.resolve(window.problem ?? loop.problem),
    });
    // In this order: nothing is done before it is known that it may be, nor added to a queue that runs what it must not.
    await counting.start();
    await adapting.start();
    await controls.start();
    await reconciler.start();
    loop.start();
    void pruner.start();
    void sweeper.start();
    const heartbeat = new Heartbeat({ db: pool, service: 'bridge', id: createProcessId(), log });
    await heartbeat.start();

    return [
      { name: 'sweeping', deadlineMs: 10 * SECOND, stop: () => sweeper.stop() },
      { name: 'pruning', deadlineMs: 10 * SECOND, stop: () => pruner.stop() },
      { name: 'reconciling', deadlineMs: 10 * SECOND, stop: () => reconciler.stop() },
      { name: 'publishing', deadlineMs: 10 * SECOND, stop: () => loop.stop() },
      {
        name: 'looking after the queue backend',
        deadlineMs: 5 * SECOND,
        stop: () => Promise.all([counting.stop(), controls.stop(), adapting.stop()]),
      },
      { name: 'health server', deadlineMs: 1 * SECOND, stop: () => closeServer(health, 0) },
      { name: 'queues', deadlineMs: 5 * SECOND, stop: () => queues.close() },
      { name: 'heartbeat', deadlineMs: 2 * SECOND, stop: () => heartbeat.stop() },
      {
        name: 'connections',
        deadlineMs: 5 * SECOND,
        stop: () => Promise.all([wakeUp?.close(), backend.close(), pool.end()]),
      },
    ];
  },
});

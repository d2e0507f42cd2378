import {
  assertInstallation,
  assertPostgresReachable,
  closeServer,
  connectQueueBackend,
  createPool,
  createProcessId,
  DatabaseClock,
  Heartbeat,
  loadConfig,
  runService,
  SECOND,
  startHealthServer,
  type Checks,
} from '@outbox/core';
import { findDefinition, queueNames } from '@outbox/jobs';
import { createHandlerDependencies, findHandler } from '@outbox/jobs/handlers';
import { createClaim } from './claim.ts';
import { workerSettings } from './config.ts';
import { HandedBackError } from './ending.ts';
import { createFinish } from './finish.ts';
import { Leases } from './leases.ts';
import { ProviderGate } from './provider-gate.ts';
import { runJob, type JobRunner } from './run-job.ts';
import { RestoreWatch } from './restore-watch.ts';
import { Watchdog } from './watchdog.ts';
import { Workers } from './workers.ts';

/** Most rows of one claim or finish. */
const MAX_BATCH = 200;

/** A business transaction may hold a row for as long as it likes; our statements then give way and come back. */
const LOCK_TIMEOUT_MS = 2 * SECOND;

/**
 * What a job writes when it ends locks rows of the business, and no business write is to wait for a worker whose connection
 * hangs. A transaction of ours only sends statements, so a second of silence means that nobody is there any more.
 */
const IDLE_IN_TRANSACTION_MS = 1 * SECOND;

await runService({
  name: 'worker',
  loadSettings: () => loadConfig(workerSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async (settings, log) => {
    const { DATABASE_URL: url, DATABASE_ROLE: role, DATABASE_POOLED: pooled, LEASE: leaseMs } = settings;
    const onError = (err: unknown) => log.warn({ err }, 'lost a Postgres connection');
    const pool = createPool({
      url,
      role,
      pooled,
      applicationName: 'outbox worker',
      max: 4,
      lockTimeoutMs: LOCK_TIMEOUT_MS,
      idleInTransactionMs: IDLE_IN_TRANSACTION_MS,
      preferIndexes: true,
      onError,
    });
    const leasePool = createPool({
      url,
      role,
      pooled,
      applicationName: 'outbox worker leases',
      max: 1,
      queryTimeoutMs: leaseMs / 3,
      preferIndexes: true,
      onError,
    });
    await assertPostgresReachable(pool, url);
    await assertInstallation(pool, settings);

    const clock = new DatabaseClock(leasePool, (err) => log.warn({ err }, 'clock not measured'));
    await clock.start();
    const backend = await connectQueueBackend(settings, (err) => log.warn({ err }, 'queue backend error'));
    const restores = new RestoreWatch({ db: pool, backend, log });
    await restores.start();
    const handBack = new AbortController();
    const leases = new Leases({ pool: leasePool, leaseMs, handBack: handBack.signal, log });
    const workerId = createProcessId();
    const runner: JobRunner<ReturnType<typeof createHandlerDependencies>> = {
      pool,
      clock,
      leases,
      providers: new ProviderGate(pool, MAX_BATCH),
      claim: createClaim({ pool, workerId, leaseMs, maxBatch: MAX_BATCH, restores }),
      finish: createFinish(pool, MAX_BATCH),
      findDefinition,
      findHandler,
      dependencies: createHandlerDependencies(settings),
      handBack: handBack.signal,
      log,
    };
    const queues = settings.QUEUES ?? queueNames(settings.FAMILIES);
    const workers = new Workers({
      backend,
      queues,
      concurrency: settings.CONCURRENCY,
      leaseMs,
      stalledIntervalMs: settings.STALLED_INTERVAL,
      clock,
      restores,
      run: (job, token) => runJob(job, token, runner),
      log,
    });
    const watchdog = new Watchdog({
      backend,
      queues,
      activity: () => workers.activity(),
      wedgedAfterMs: settings.WEDGED_AFTER,
      log,
    });
    const readiness: Checks = {
      postgres: async () => void (await pool.query('select 1')),
      queues: async () => void (await backend.ping()),
      clock: () => Promise.resolve(clock.trustworthy ? undefined : `off by ${Math.round(clock.offsetMs)} ms`),
      restore: () => Promise.resolve(restores.restored ? 'the database was restored to an older state' : undefined),
    };
    const health = await startHealthServer(settings.HEALTH_PORT, readiness, {
      worker: () => Promise.resolve(watchdog.problem()),
    });
    leases.start();
    workers.start();
    watchdog.start();
    const heartbeat = new Heartbeat({ db: pool, service: 'worker', id: workerId, log });
    await heartbeat.start();

    let drained: Promise<void> | undefined;
    return [
      { name: 'watchdog', deadlineMs: 2 * SECOND, stop: () => watchdog.stop() },
      { name: 'running jobs', deadlineMs: settings.DRAIN, stop: () => (drained = workers.close()) },
      {
        name: 'handing back',
        deadlineMs: 10 * SECOND,
        stop: () => {
          handBack.abort(new HandedBackError('The worker stops.'));
          return drained;
        },
      },
      { name: 'leases', deadlineMs: 2 * SECOND, stop: () => leases.stop() },
      { name: 'health server', deadlineMs: 1 * SECOND, stop: () => closeServer(health, 0) },
      { name: 'heartbeat', deadlineMs: 2 * SECOND, stop: () => heartbeat.stop() },
      {
        name: 'connections',
        deadlineMs: 5 * SECOND,
        stop: () => {
          clock.stop();
          restores.stop();
          return Promise.all([backend.close(), pool.end(), leasePool.end()]);
        },
      },
    ];
  },
});

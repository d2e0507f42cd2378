import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  connectQueueBackend,
  createPool,
  loadConfig,
  sharedSettings,
  type Pool,
  type QueueBackend,
} from '@outbox/core';
import { findRedisServer, startLocalPostgres, startLocalRedis } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { startService, type RunningService, type ServiceName } from '@outbox/testing';
import { Redis } from 'ioredis';

const INSTANCE = 'bench';

/** Writers at a time. Connections are made when they are needed. */
const POOL_SIZE = 40;

export interface StageOptions {
  /** False: PostgreSQL does not wait for the disk. Faster than anything a production may do. */
  fsync: boolean;
}

/** Private servers, a migrated database, and services as processes of their own. */
export interface Stage {
  /** Private, taken away with the stage. */
  readonly folder: string;
  readonly databaseUrl: string;
  readonly pool: Pool;
  readonly redis: Redis;
  /** For looking at BullMQ as the services see it. */
  readonly backend: QueueBackend;
  readonly servers: Record<string, string>;
  /** Starts a built service with production settings, `env` on top. It is stopped with the stage. */
  start(name: ServiceName, env?: Record<string, string>): Promise<RunningService>;
}

/** Builds a stage, runs `work` on it, and takes everything away again, also after an error or Ctrl-C. */
export async function withStage<T>(options: StageOptions, work: (stage: Stage) => Promise<T>): Promise<T> {
  const cleanups: (() => Promise<unknown>)[] = [];
  const interrupted = untilInterrupted();
  try {
    return await Promise.race([build(options, cleanups).then(work), interrupted.promise]);
  } finally {
    interrupted.ignore();
    for (const cleanup of cleanups.reverse()) await cleanup().catch((error: unknown) => console.error(error));
  }
}

async function build({ fsync }: StageOptions, cleanups: (() => Promise<unknown>)[]): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-bench-'));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));

  const postgres = await startLocalPostgres({
    dataDir: join(folder, 'postgres'),
    settings: { fsync: fsync ? 'on' : 'off' },
  });
  // Run as root the server keeps its data elsewhere: it goes as well.
  cleanups.push(() => rm(postgres.dataDir, { recursive: true, force: true }));
  cleanups.push(() => postgres.stop());
  const binary = await findRedisServer();
  if (!binary) throw new Error('The benchmarks need redis-server or valkey-server, 6.2 or newer, on this machine.');
  const redisServer = await startLocalRedis({ binary, dataDir: join(folder, 'redis'), persistent: true });
  cleanups.push(() => redisServer.stop());

  const env = { DATABASE_URL: postgres.url, OUTBOX_INSTANCE: INSTANCE, REDIS_URL: redisServer.url };
  await migrate({ databaseUrl: postgres.url, instance: INSTANCE, backend: 'redis', timings: 'production', host: true });
  const pool = createPool({ url: postgres.url, applicationName: 'outbox bench', max: POOL_SIZE, onError: report });
  cleanups.push(() => pool.end());
  const redis = new Redis(redisServer.url);
  cleanups.push(() => redis.quit());
  const backend = await connectQueueBackend(loadConfig(sharedSettings, env), report);
  cleanups.push(() => backend.close());

  const start = async (name: ServiceName, extra: Record<string, string> = {}) => {
    // Nothing is texted: the simulator's address is only there because the worker asks for one.
    const sms: Record<string, string> = name === 'worker' ? { SMS_SIMULATOR_URL: 'http://127.0.0.1:9' } : {};
    // One line per job would make the process that measures work as hard as the one that is measured.
    const service = await startService(name, {
      ...env,
      ...sms,
      LOG_LEVEL: 'warn',
      DATABASE_ROLE: `outbox_${name}`,
      // The jobs of these cases have no auto sync behind them, and a sweep would cancel them.
      ...(name === 'bridge' ? { SWEEP_INTERVAL: '1h' } : {}),
      ...extra,
    });
    cleanups.push(() => service.kill('SIGKILL'));
    return service;
  };
  return {
    folder,
    databaseUrl: postgres.url,
    pool,
    redis,
    backend,
    servers: await describeServers(pool, redis),
    start,
  };
}

async function describeServers(pool: Pool, redis: Redis): Promise<Record<string, string>> {
  const { rows } = await pool.query<{ name: string; value: string }>(/* sql */ `
    select name, current_setting(name) as value
    from unnest(array['server_version', 'fsync', 'synchronous_commit', 'shared_buffers', 'max_wal_size']) as s (name)`);
  const { server_version: version = '', ...settings } = Object.fromEntries(
    rows.map(({ name, value }) => [name, value]),
  );
  const redisVersion = /redis_version:(\S+)/.exec(await redis.info('server'))?.[1] ?? '';
  return {
    PostgreSQL: `${version} (${Object.entries(settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ')})`,
    Redis: `${redisVersion} (appendonly yes, everysec)`,
  };
}

function report(error: Error): void {
  console.error(error.message);
}

/** Rejects on Ctrl-C, so that what was started is stopped. */
function untilInterrupted(): { promise: Promise<never>; ignore: () => void } {
  let stop: () => void = () => undefined;
  const promise = new Promise<never>((_resolve, reject) => {
    stop = () => reject(new Error('Interrupted.'));
  });
  promise.catch(() => undefined);
  process.once('SIGINT', stop).once('SIGTERM', stop);
  return { promise, ignore: () => process.off('SIGINT', stop).off('SIGTERM', stop) };
}

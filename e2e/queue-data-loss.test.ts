import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { findRedisServer, startLocalRedis, type LocalRedis } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { startTwilioSimulator, type TwilioSimulator } from '@outbox/simulators';
import { createTestDatabase, startService, waitFor, type RunningService, type TestDatabase } from '@outbox/testing';
import { insertAutoSyncs } from './auto-syncs.fixture.ts';

const AUTO_SYNCS = 100;

/** Long enough to lose the queue's data before the first reminder is due. */
const DELAY = '6 s';

type Backend = 'redis' | 'postgres';

let folder: string;
let redis: LocalRedis;
let db: TestDatabase;
let sms: TwilioSimulator;
let services: RunningService[];

/** A Redis of our own, which may lose everything: it keeps nothing on disk. */
async function startRedis(port?: number): Promise<LocalRedis> {
  const binary = await findRedisServer();
  if (!binary) throw new Error('npm test brings a Redis');
  return startLocalRedis({ binary, dataDir: folder, persistent: false, ...(port === undefined ? {} : { port }) });
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'outbox-queue-data-loss-'));
  [redis, db, sms] = await Promise.all([startRedis(), createTestDatabase(), startTwilioSimulator()]);
  services = [];
});

async function startServices(backend: Backend): Promise<void> {
  if (backend === 'postgres') {
    await migrate({ databaseUrl: db.url, instance: 'test', backend, timings: 'production', host: true });
  }
  await db.pool.query('update outbox.job_types set operator_delay = $1', [DELAY]);
  const env = {
    DATABASE_URL: db.url,
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: backend,
    REDIS_URL: backend === 'redis' ? redis.url : '',
    SMS_SIMULATOR_URL: sms.url,
  };
  services = await Promise.all(
    (['bridge', 'worker'] as const).map((name) => startService(name, { ...env, DATABASE_ROLE: `outbox_${name}` })),
  );
}

afterEach(async () => {
  await Promise.all(services.map((service) => service.kill('SIGKILL')));
  await Promise.all([redis.stop(), sms.close(), db.drop()]);
  await rm(folder, { recursive: true });
});

async function countStates(name: string): Promise<Record<string, number>> {
  const { rows } = await db.pool.query<{ state: string; count: number }>(
    'select state, count(*)::int from outbox.jobs where name = $1 group by state',
    [name],
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

const losses: [string, Backend, () => Promise<void>][] = [
  [
    'FLUSHALL',
    'redis',
    async () => {
      const client = new Redis(redis.url);
      await client.flushall();
      client.disconnect();
    },
  ],
  [
    'a Redis that is killed and comes back empty',
    'redis',
    async () => {
      const { pid, port } = redis;
      process.kill(pid, 'SIGKILL');
      await redis.stop();
      redis = await startRedis(port);
    },
  ],
  [
    "truncating all tables of BullMQ's PostgreSQL backend",
    'postgres',
    async () => {
      const { rows } = await db.pool.query<{ tables: string }>(
        `select string_agg(format('bullmq.%I', tablename), ', ') as tables
         from pg_tables
         where schemaname = 'bullmq' and tablename <> 'bullmq_migrations'`,
      );
      await db.pool.query(`truncate ${rows[0]?.tables}`);
    },
  ],
];

it.each(losses)(
  '%s loses no job and doubles none: each auto sync is reminded once, and paused',
  async (_title, backend, lose) => {
    await startServices(backend);
    await insertAutoSyncs(db.pool, AUTO_SYNCS);
    await waitFor(async () => expect(await countStates('reminder_24h')).toEqual({ published: AUTO_SYNCS }));
    await lose();

    await waitFor(async () => expect(await countStates('pause_check_48h')).toEqual({ completed: AUTO_SYNCS }), {
      timeoutMs: 40_000,
      intervalMs: 100,
    });
    const { rowCount: publishedAgain } = await db.pool.query(
      "select from outbox.jobs where name = 'reminder_24h' and generation > 1",
    );
    expect(publishedAgain).toBe(AUTO_SYNCS);
    const texted = sms.messages().map(({ to }) => to);
    expect(texted).toHaveLength(AUTO_SYNCS);
    expect(new Set(texted).size).toBe(AUTO_SYNCS);
    const { rows } = await db.pool.query('select distinct status::text from auto_syncs');
    expect(rows).toEqual([{ status: 'paused' }]);
  },
  60_000,
);

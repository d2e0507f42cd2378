import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findRedisServer, startLocalRedis, type LocalRedis } from '@outbox/local';
import { createTestDatabase, startService, waitFor, type RunningService, type TestDatabase } from '@outbox/testing';
import { Redis } from 'ioredis';

const JOBS = 1_000;

let folder: string;
let server: LocalRedis;
let redis: Redis;
let db: TestDatabase;
let bridge: RunningService;

/** A Redis of our own, whose memory we may limit. */
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'outbox-redis-memory-'));
  const binary = await findRedisServer();
  if (!binary) throw new Error('npm test brings a Redis');
  server = await startLocalRedis({ binary, dataDir: folder, persistent: false });
  redis = new Redis(server.url);
  db = await createTestDatabase();
  const env = { DATABASE_URL: db.url, OUTBOX_INSTANCE: 'test', REDIS_URL: server.url };
  bridge = await startService('bridge', { ...env, DATABASE_ROLE: 'outbox_bridge' });
});

afterEach(async () => {
  await bridge.kill('SIGKILL');
  redis.disconnect();
  await Promise.all([server.stop(), db.drop()]);
  await rm(folder, { recursive: true });
});

async function addJobs(count: number, dueIn: string): Promise<void> {
  await db.pool.query(
    `select outbox.enqueue_many(name => 'reminder_24h', rows => (
       select jsonb_agg(jsonb_build_object('scheduled_at', now() + $2::interval)) from generate_series(1, $1::int)
     ))`,
    [count, dueIn],
  );
}

async function countStates(): Promise<Record<string, number>> {
  const { rows } = await db.pool.query<{ state: string; count: number }>(
    'select state, count(*)::int from outbox.jobs group by state',
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

async function usedBytes(): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1]);
}

const limitTo = (bytes: number) => redis.config('SET', 'maxmemory', Math.round(bytes));
const readiness = async () => (await fetch(`${bridge.url}/readyz`)).text();

it('a Redis that fills up gives far jobs back, business goes on meanwhile, and nothing is lost or refused', async () => {
  const emptyBytes = await usedBytes();
  await addJobs(JOBS, '2 hours');
  await waitFor(async () => expect(await countStates()).toEqual({ published: JOBS }), { timeoutMs: 20_000 });

  // Nearly full: what was taken back is published no more, and what is written meanwhile waits.
  const fullBytes = await usedBytes();
  expect(fullBytes - emptyBytes).toBeGreaterThan(JOBS * 500);
  await limitTo(fullBytes / 0.95);
  await waitFor(async () => expect(await readiness()).toMatch(/% full, nothing is published/), { timeoutMs: 10_000 });
  await addJobs(10, '1 hour');
  await waitFor(async () => expect(await countStates()).toEqual({ pending: JOBS + 10 }), { timeoutMs: 30_000 });
  await waitFor(async () => expect(await redis.zcard('{outbox:reminders}:reminders:delayed')).toBe(0));

  // Entirely full: Redis refuses every write, which is held against no row.
  await limitTo(1);
  await addJobs(20, '0');
  await waitFor(async () => expect(await readiness()).toMatch(/% full, nothing is published/), { timeoutMs: 10_000 });
  expect(await countStates()).toEqual({ pending: JOBS + 30 });

  await limitTo(0);
  await db.pool.query("update outbox.meta set publish_window = interval '72 hours'");
  await waitFor(async () => expect(await countStates()).toEqual({ published: JOBS + 30 }), { timeoutMs: 20_000 });
  await waitFor(async () => expect(await readiness()).toContain('"ready"'));
  const { rows } = await db.pool.query('select max(publish_failures) as refusals from outbox.jobs');
  expect(rows).toEqual([{ refusals: 0 }]);
}, 120_000);

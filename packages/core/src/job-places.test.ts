import { createTestDatabase, createTestPrefix } from '@outbox/testing';
import { runMigrations, type Job } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { connectQueueBackend, type QueueBackend } from './queue-backend.ts';

const QUEUE = 'places';

/** One job in each place. */
async function fill(backend: QueueBackend) {
  const queue = backend.createQueue(QUEUE);
  const outcome = (job: Job) =>
    job.id === 'is-failed'
      ? Promise.reject(new Error('no'))
      : job.id === 'is-active'
        ? released
        : Promise.resolve('done');
  let release = () => undefined as void;
  const released = new Promise<void>((resolve) => (release = resolve));
  for (const jobId of ['is-completed', 'is-failed', 'is-active']) await queue.add('any', {}, { jobId });
  const worker = backend.createWorker(QUEUE, outcome, { concurrency: 3, autorun: false });
  const ended = new Promise<void>((resolve) => {
    const seen = new Set<string>();
    const note = (what: string) => void (seen.add(what).size === 3 && resolve());
    worker.on('active', ({ id }) => void (id === 'is-active' && note('active')));
    worker.on('completed', ({ id }) => note(id ?? ''));
    worker.on('failed', (job) => note(job?.id ?? ''));
  });
  void worker.run();
  await ended;
  await queue.pause();
  await queue.add('any', {}, { jobId: 'is-waiting' });
  await queue.add('any', {}, { jobId: 'is-delayed', delay: 3_600_000 });
  await queue.add('any', {}, { jobId: 'is-prioritized', priority: 7 });
  return {
    queue,
    close: async () => {
      release();
      await worker.close();
      await queue.close();
    },
  };
}

const PLACES = {
  'is-completed': 'ended',
  'is-failed': 'ended',
  'is-active': 'open',
  'is-waiting': 'open',
  'is-delayed': 'open',
  'is-prioritized': 'open',
  never: 'missing',
};

async function setup(kind: QueueBackend['kind']) {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  if (kind === 'postgres') {
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    await runMigrations(client);
    await client.end();
  }
  const backend = await connectQueueBackend(
    {
      DATABASE_URL: database.url,
      OUTBOX_INSTANCE: 'test',
      QUEUE_BACKEND: kind,
      REDIS_URL: keys.redisUrl,
      QUEUE_PREFIX: keys.prefix,
      DATABASE_POOLED: false,
      LOG_LEVEL: 'error',
    },
    () => undefined,
  );
  const redis = new Redis(keys.redisUrl);
  const key = (part: string) => `{${keys.prefix}:${QUEUE}}:${QUEUE}:${part}`;
  const close = async () => {
    redis.disconnect();
    await backend.close();
    await keys.removeKeys();
    await database.drop();
  };
  return { backend, redis, key, close };
}

let bundle: Awaited<ReturnType<typeof setup>>;
afterEach(() => bundle.close());

describe.each(['redis', 'postgres'] as const)('on the %s backend', (kind) => {
  it('every job is known by its place, also while the queue is paused', async () => {
    bundle = await setup(kind);
    const { close } = await fill(bundle.backend);
    const places = await bundle.backend.placesOf(QUEUE, Object.keys(PLACES));
    expect(Object.fromEntries(places)).toEqual(PLACES);
    await close();
  });

  it('a delayed job tells until when, and the others are not held back', async () => {
    bundle = await setup(kind);
    const { close, queue } = await fill(bundle.backend);
    const until = await bundle.backend.delayedUntil(QUEUE, Object.keys(PLACES));
    expect([...until.keys()]).toEqual(['is-delayed']);
    const job = await queue.getJob('is-delayed');
    expect(until.get('is-delayed')).toBe((job?.timestamp ?? 0) + (job?.delay ?? 0));
    await close();
  });

  it('page after page shows each waiting job once, and no running or ended one', async () => {
    bundle = await setup(kind);
    const { close, queue } = await fill(bundle.backend);
    await queue.addBulk(
      Array.from({ length: 25 }, (_, n) => ({ name: 'any', data: {}, opts: { jobId: `more-${n}` } })),
    );
    const ids: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await bundle.backend.waitingJobs(QUEUE, cursor, 10);
      ids.push(...page.ids);
      cursor = page.next;
    } while (cursor !== undefined);
    const more = Array.from({ length: 25 }, (_, n) => `more-${n}`);
    expect(ids.sort()).toEqual(['is-waiting', 'is-delayed', 'is-prioritized', ...more].sort());
    await close();
  });
});

describe('in a Redis that has lost a part', () => {
  it.each(['delayed', 'prioritized', 'wait'])(
    'a job whose place in "%s" is gone is stranded, and remove ends it',
    async (part) => {
      bundle = await setup('redis');
      const { backend, redis, key } = bundle;
      const { close, queue } = await fill(backend);
      const id = part === 'wait' ? 'is-waiting' : `is-${part}`;
      await redis.del(key(part));
      expect((await backend.placesOf(QUEUE, Object.keys(PLACES))).get(id)).toBe('stranded');
      await queue.remove(id);
      expect(await redis.exists(key(id))).toBe(0);
      expect((await backend.placesOf(QUEUE, [id])).get(id)).toBe('missing');
      await close();
    },
  );

  it('an id that is listed without its data is stranded, and remove ends it', async () => {
    bundle = await setup('redis');
    const { backend, redis, key } = bundle;
    const { close, queue } = await fill(backend);
    await redis.zadd(key('delayed'), 1, 'bare');
    expect((await backend.placesOf(QUEUE, ['bare'])).get('bare')).toBe('stranded');
    await queue.remove('bare');
    expect((await backend.placesOf(QUEUE, ['bare'])).get('bare')).toBe('missing');
    await close();
  });

  it('jobs that workers take and finish meanwhile are never taken for lost', async () => {
    bundle = await setup('redis');
    const { backend } = bundle;
    const queue = backend.createQueue(QUEUE);
    const ids = Array.from({ length: 200 }, (_, n) => `job-${n}`);
    await queue.addBulk(ids.map((jobId) => ({ name: 'any', data: {}, opts: { jobId } })));
    const worker = backend.createWorker(QUEUE, () => Promise.resolve(), { concurrency: 5 });
    const seen = new Set<string>();
    while ((await queue.getCompletedCount()) < ids.length) {
      for (const place of (await backend.placesOf(QUEUE, ids)).values()) seen.add(place);
    }
    expect([...seen].filter((place) => place !== 'open' && place !== 'ended')).toEqual([]);
    await worker.close();
    await queue.close();
  });
});

it('the counter never goes down', async () => {
  bundle = await setup('redis');
  const { backend } = bundle;
  expect(await backend.readCounter()).toBeUndefined();
  for (const counter of ['7', '12', '9']) await backend.writeCounter(counter);
  expect(await backend.readCounter()).toBe('12');
});

import { setTimeout as sleep } from 'node:timers/promises';
import { connectQueueBackend, SECOND, type SharedSettings } from '@outbox/core';
import { captureLogs, startFaultProxy, startOwnRedis, waitFor } from '@outbox/testing';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { createGate } from './worker.fixture.ts';
import { Watchdog } from './watchdog.ts';
import { Workers } from './workers.ts';

const QUEUE = 'test-queue';
const WEDGED_AFTER_MS = 500;

/** One queue's worker on a Redis of its own, which the test may spoil. */
async function setup() {
  const server = await startOwnRedis();
  const proxy = await startFaultProxy(server.url);
  const settings: SharedSettings = {
    DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: 'redis',
    REDIS_URL: proxy.url,
    QUEUE_PREFIX: 'test',
    DATABASE_POOLED: false,
    LOG_LEVEL: 'error',
  };
  const backend = await connectQueueBackend(settings, () => undefined);
  const queue = backend.createQueue(QUEUE);
  const redis = new Redis(server.url, { retryStrategy: () => 50 });
  redis.on('error', () => undefined);
  const { log, lines } = captureLogs();
  const done: (string | undefined)[] = [];
  const clock = { trustworthy: true, offsetMs: 0 };
  const gate = createGate();
  const run = async (job: { id?: string | undefined; name: string }) => {
    if (job.name === 'silencing') proxy.silence();
    if (job.name === 'slow') await gate.opened;
    if (job.name === 'brief') await sleep(5);
    done.push(job.id);
  };
  const bullWorkers: ReturnType<typeof backend.createWorker>[] = [];
  const workers = new Workers({
    backend: {
      ...backend,
      createWorker: (...args) => {
        const worker = backend.createWorker(...args);
        bullWorkers.push(worker);
        return worker;
      },
    },
    queues: [QUEUE],
    concurrency: 2,
    leaseMs: 5 * SECOND,
    stalledIntervalMs: 1 * SECOND,
    clock,
    restores: { restored: false },
    run,
    log,
  });
  const [bullWorker] = bullWorkers;
  if (!bullWorker) throw new Error('No worker was made');
  let errors = 0;
  bullWorker.on('error', () => (errors += 1));
  const watchdog = new Watchdog({
    backend,
    queues: [QUEUE],
    activity: () => workers.activity(),
    wedgedAfterMs: WEDGED_AFTER_MS,
    log,
  });
  workers.start();
  watchdog.start();
  await bullWorker.waitUntilReady();
  const close = async () => {
    gate.open();
    await proxy.restore();
    await watchdog.stop();
    await workers.close();
    await queue.close();
    await backend.close();
    redis.disconnect();
    await proxy.close();
    await server.stop();
  };
  return {
    queue,
    redis,
    workers,
    watchdog,
    bullWorker,
    clock,
    lines,
    done,
    proxy,
    gate,
    close,
    errors: () => errors,
    told: (msg: string) => lines.filter((line) => line.msg === msg),
  };
}

let bundle: Awaited<ReturnType<typeof setup>>;
beforeEach(async () => void (bundle = await setup()));
afterEach(() => bundle.close());

const add = (id: string, name = 'quick') => bundle.queue.add(name, {}, { jobId: id });

/** Looks on until the watchdog has had time for `times` verdicts. */
async function whileLooking(times = 3): Promise<(string | undefined)[]> {
  const problems: (string | undefined)[] = [];
  for (const until = performance.now() + times * WEDGED_AFTER_MS; performance.now() < until;) {
    await bundle.watchdog.look();
    problems.push(bundle.watchdog.problem());
    await sleep(20);
  }
  return problems;
}

describe('the watchdog', () => {
  test('finds a worker that takes nothing although work waits, and sees it recover', async () => {
    const { bullWorker, watchdog, told, done } = bundle;
    await bullWorker.pause(true);
    await add('a-1');
    // It was in the middle of a look for jobs when it was paused, and may still take the first.
    await waitFor(() => expect(done).toEqual(['a-1']), { timeoutMs: 1_000 }).catch(() => undefined);
    await add('b-1');
    await waitFor(() => expect(watchdog.problem()).toBe(`${QUEUE}: jobs wait, and none is taken`));
    expect(told('worker is wedged')).toHaveLength(1);

    await bullWorker.resume();
    await waitFor(() => expect(done).toContain('b-1'));
    await waitFor(() => expect(watchdog.problem()).toBeUndefined());
  });

  test.each([
    ['an empty queue', () => Promise.resolve()],
    ['a paused queue', () => bundle.queue.pause().then(() => add('p-1'))],
    [
      'a busy worker without a free slot',
      async () => {
        for (const id of ['s-1', 's-2', 's-3']) await add(id, 'slow');
      },
    ],
    [
      'a worker that is held because of its clock',
      async () => {
        bundle.clock.trustworthy = false;
        await waitFor(() => expect(bundle.bullWorker.isPaused()).toBe(true));
        for (const id of ['c-1', 'c-2']) await add(id);
      },
    ],
    [
      'a stuck worker whose Redis is down',
      async () => {
        await bundle.bullWorker.pause(true);
        await add('r-1');
        await add('r-2');
        await bundle.proxy.cut();
      },
    ],
  ])('leaves alone %s', async (_title, arrange) => {
    await arrange();
    expect((await whileLooking()).filter((problem) => problem !== undefined)).toEqual([]);
  });

  test('does not count time in which this process did not run', async () => {
    const { bullWorker, watchdog } = bundle;
    await bullWorker.pause(true);
    await add('a-1');
    await add('b-1');
    await watchdog.look();
    for (const until = performance.now() + 2 * WEDGED_AFTER_MS; performance.now() < until;);
    await watchdog.look();
    expect(watchdog.problem()).toBeUndefined();
  });
});

describe('a Redis that answers, but refuses', () => {
  /** Spoils it in the middle of work, when BullMQ asks without waiting, and looks on for four seconds. */
  async function spoilBusy(spoil: () => Promise<unknown>) {
    const ids = Array.from({ length: 500 }, (_, at) => `${at}-1`);
    await bundle.queue.addBulk(ids.map((jobId) => ({ name: 'brief', data: {}, opts: { jobId } })));
    await waitFor(() => expect(bundle.done.length).toBeGreaterThan(20));
    await spoil();
    const errorsBefore = bundle.errors();
    await whileLooking(8);
    return { ids, errors: bundle.errors() - errorsBefore };
  }

  const untilAllDone = (ids: string[]) =>
    waitFor(() => expect(ids.filter((id) => !bundle.done.includes(id))).toEqual([]), { timeoutMs: 25 * SECOND });

  test('as a primary that became a replica does, is asked after growing waits, one line each, and served again', async () => {
    const { redis, told, watchdog } = bundle;
    const { ids, errors } = await spoilBusy(() => redis.call('REPLICAOF', '127.0.0.1', '1'));

    const waits = told('queue backend refuses, waiting').map(({ waitMs }) => Number(waitMs));
    expect(waits.length).toBeGreaterThanOrEqual(2);
    waits.forEach((waitMs, at) => {
      expect(waitMs).toBeGreaterThanOrEqual(1_000 * 2 ** at);
      expect(waitMs).toBeLessThanOrEqual(1_250 * 2 ** at);
    });
    expect(errors).toBeLessThan(30); // without waits some 4,600 a second
    expect(bundle.lines.filter(({ level }) => level !== 'info').length).toBeLessThanOrEqual(waits.length + 1);
    expect(watchdog.problem()).toBeUndefined();

    await redis.call('REPLICAOF', 'NO', 'ONE');
    await untilAllDone(ids);
    expect(told('queue backend takes commands again')).toHaveLength(1);
  }, 45_000);

  test('because it is full, is not asked again and again, and is served when there is room', async () => {
    const { redis } = bundle;
    const { ids, errors } = await spoilBusy(() => redis.config('SET', 'maxmemory', '1'));
    expect(errors).toBeLessThan(30);
    expect(bundle.lines.length).toBeLessThan(10);
    await redis.config('SET', 'maxmemory', '0');
    await untilAllDone(ids);
  }, 45_000);
});

test('a worker stops within seconds while Redis is away and no job is in hand', async () => {
  await bundle.bullWorker.pause(true);
  await bundle.proxy.cut();
  await waitFor(() => expect(bundle.errors()).toBeGreaterThan(0));
  const before = performance.now();
  await bundle.workers.close();
  expect(performance.now() - before).toBeLessThan(5 * SECOND);
});

describe('jobs that are due at once', () => {
  async function addAtOnce(ids: string[], name: string): Promise<void> {
    const direct = new Queue(QUEUE, { connection: bundle.redis, prefix: `{test:${QUEUE}}` });
    await direct.addBulk(ids.map((jobId) => ({ name, data: {}, opts: { jobId } })));
    await direct.close();
  }

  test('do not wait for each other to be fetched before the first one starts', async () => {
    const { done, redis, bullWorker } = bundle;
    await addAtOnce(['a-1', 'b-1', 'c-1', 'd-1'], 'quick');
    await waitFor(() => expect(done).toHaveLength(4));
    await waitFor(() => expect(bullWorker.concurrency).toBe(1)); // idle since

    // Nothing more is fetched from the moment in which the first one starts.
    await addAtOnce(['e-1', 'f-1', 'g-1'], 'silencing');
    await waitFor(() => expect(done).toContain('e-1'));
    expect(await redis.llen(`{test:${QUEUE}}:${QUEUE}:active`)).toBe(1);
  });

  test('run in every place there is', async () => {
    await addAtOnce(['a-1', 'b-1', 'c-1'], 'slow');
    await waitFor(async () => expect(await bundle.redis.llen(`{test:${QUEUE}}:${QUEUE}:active`)).toBe(2));
    bundle.gate.open();
    await waitFor(() => expect(bundle.done).toHaveLength(3));
  });
});

describe('connections to Redis that go silent without being closed', () => {
  test('are replaced within 15 s while new ones work, and jobs go on', async () => {
    const { proxy, done, redis } = bundle;
    await add('before-1');
    await waitFor(() => expect(done).toEqual(['before-1']));
    proxy.silenceOpen();
    const direct = new Queue(QUEUE, { connection: redis, prefix: `{test:${QUEUE}}` });
    await direct.add('quick', {}, { jobId: 'after-1' });
    await waitFor(() => expect(done).toContain('after-1'), { timeoutMs: 15 * SECOND });
    await direct.close();
  }, 20_000);
});

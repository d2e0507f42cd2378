import { HOUR, type Pool, type QueueBackend } from '@outbox/core';
import { captureLogs, createTestDatabase, createTestPrefix, waitFor } from '@outbox/testing';
import { UnrecoverableError } from 'bullmq';
import { Redis } from 'ioredis';
import { addRow, openQueues, QUEUE, readRow } from './bridge.fixture.ts';
import { applyControls } from './queue-controls.ts';
import { publishBatch } from './publish.ts';
import { reconcileOnce } from './reconcile.ts';
import { carryOutRemovals } from './removals.ts';

async function setup(kind: QueueBackend['kind']) {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  const { pool, url } = database;
  const opened = await openQueues(keys.redisUrl, keys.prefix, kind === 'postgres' ? url : undefined);
  const { backend, queue, queueOf } = opened;
  const { log } = captureLogs();
  const prepare = () => Promise.resolve();
  const look = async (dryRun: boolean) => {
    const found = await reconcileOnce({ pool, backend, queues: [QUEUE], dryRun, prepare, log });
    return Object.fromEntries(found.entries().flatMap((each) => (each.found > 0 ? [[each.class, each.found]] : [])));
  };
  await look(false);
  const publish = () => publishBatch({ pool, queueOf, limit: 5_000 });
  return {
    ...{ pool, keys, queue, queueOf, backend, log, look, publish },
    /** What bridges do about it, until nothing differs. */
    converge: async () => {
      const found = await look(false);
      await carryOutRemovals({ pool, queueOf, limit: 5_000 });
      await publish();
      expect(await look(true)).toEqual({});
      return found;
    },
    published: async (dueInMs: number) => {
      const id = await addRow(pool, { dueInMs });
      await publish();
      return id;
    },
    /** Runs the waiting jobs of BullMQ as somebody else's worker would: the rows do not know. */
    steal: async (outcome: () => Promise<unknown>) => {
      const thief = backend.createWorker(QUEUE, outcome, {});
      await new Promise<void>((resolve) => {
        thief.once('completed', () => resolve());
        thief.once('failed', () => resolve());
      });
      await thief.close();
    },
    close: async () => {
      await opened.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

let bridge: Awaited<ReturnType<typeof setup>>;
afterEach(() => bridge.close());

async function repairs(pool: Pool): Promise<unknown[]> {
  const { rows } = await pool.query<Record<string, unknown>>(
    'select class, drift, repaired::int from outbox.repairs where repaired > 0',
  );
  return rows;
}

const finish = (pool: Pool, id: string) =>
  pool.query("update outbox.jobs set state = 'completed', finished_at = now() where id = $1", [id]);

describe.each(['redis', 'postgres'] as const)('what other hands do in BullMQ on %s', (kind) => {
  it('a removed job is published again, under a new generation', async () => {
    bridge = await setup(kind);
    const id = await bridge.published(HOUR);
    await bridge.queue.remove(`${id}-1`);
    expect(await bridge.look(true)).toEqual({ missing: 1 });
    expect(await readRow(bridge.pool, id)).toMatchObject({ state: 'published', generation: 1 });
    expect(await bridge.converge()).toEqual({ missing: 1 });
    expect(await repairs(bridge.pool)).toEqual([{ class: 'missing', drift: 1, repaired: 1 }]);
    expect(await readRow(bridge.pool, id)).toMatchObject({ state: 'published', generation: 2 });
    await bridge.look(false);
    expect(await repairs(bridge.pool)).toEqual([{ class: 'missing', drift: 0, repaired: 1 }]);
  });

  it('a drained queue is published again', async () => {
    bridge = await setup(kind);
    const ids = [await bridge.published(HOUR), await bridge.published(-1)];
    await bridge.queue.drain(true);
    expect(await bridge.converge()).toEqual({ missing: 2 });
    expect(await bridge.queue.getJobCountByTypes('waiting', 'delayed')).toBe(2);
    expect(ids).toHaveLength(2);
  });

  it('a cleaned queue is published again', async () => {
    bridge = await setup(kind);
    await bridge.published(HOUR);
    await bridge.queue.clean(0, 100, 'delayed');
    expect(await bridge.converge()).toEqual({ missing: 1 });
  });

  it('a promoted job is left to its claim, which puts it off', async () => {
    bridge = await setup(kind);
    const id = await bridge.published(HOUR);
    await (await bridge.queue.getJob(`${id}-1`))?.promote();
    expect(await bridge.converge()).toEqual({});
    expect(await readRow(bridge.pool, id)).toMatchObject({ state: 'published', generation: 1 });
  });

  it('the retained-terminal-id trap: a row whose id is kept as completed runs again only under a new generation', async () => {
    bridge = await setup(kind);
    const id = await bridge.published(-1);
    await bridge.steal(() => Promise.resolve('eaten'));
    await bridge.queue.add('again', {}, { jobId: `${id}-1` });
    expect(await bridge.queue.getJobState(`${id}-1`)).toBe('completed');
    expect(await bridge.converge()).toEqual({ ended: 1 });
    expect(await bridge.queue.getJobState(`${id}-2`)).toBe('waiting');
  });

  it('the retained-terminal-id trap: the same for one that is kept as failed', async () => {
    bridge = await setup(kind);
    const id = await bridge.published(-1);
    await bridge.steal(() => Promise.reject(new UnrecoverableError('moved')));
    expect(await bridge.queue.getJobState(`${id}-1`)).toBe('failed');
    expect(await bridge.converge()).toEqual({ ended: 1 });
    expect(await bridge.queue.getJobState(`${id}-2`)).toBe('waiting');
  });

  it('jobs of a finished, a missing and a newer row are taken out; others are left alone', async () => {
    bridge = await setup(kind);
    const { pool, queue, publish } = bridge;
    const [finished, rescheduled, fine] = [await addRow(pool), await addRow(pool), await addRow(pool)];
    await publish();
    await finish(pool, finished);
    await pool.query('select outbox.reschedule(id => $1, scheduled_at => now())', [rescheduled]);
    await pool.query('delete from outbox.removals');
    await publish();
    await queue.add('any', {}, { jobId: '999999-1', delay: HOUR });
    await queue.add('any', {}, { jobId: 'somebody-elses' });

    expect(await bridge.look(true)).toEqual({ orphaned: 3 });
    expect(await bridge.converge()).toEqual({ orphaned: 3 });
    const left = (await queue.getJobs(['waiting', 'delayed'])).map(({ id }) => id).sort();
    expect(left).toEqual([`${fine}-1`, `${rescheduled}-2`, 'somebody-elses'].sort());
  });

  it('a finished job that is retried by hand is taken out again', async () => {
    bridge = await setup(kind);
    const id = await bridge.published(-1);
    await bridge.steal(() => Promise.resolve('done'));
    await finish(bridge.pool, id);
    await (await bridge.queue.getJob(`${id}-1`))?.retry('completed');
    expect(await bridge.converge()).toEqual({ orphaned: 1 });
    expect(await bridge.queue.getJob(`${id}-1`)).toBeUndefined();
  });

  it('a pause or a resume is undone, and the pause of the outbox applied', async () => {
    bridge = await setup(kind);
    const { pool, queue, queueOf, log } = bridge;
    const apply = () => applyControls({ pool, queues: [QUEUE], queueOf, log });
    await queue.pause();
    await apply();
    expect(await queue.isPaused()).toBe(false);
    await pool.query("select outbox.pause_queue(name => $1, paused_by => 'ann')", [QUEUE]);
    await apply();
    expect(await queue.isPaused()).toBe(true);
    await queue.resume();
    await apply();
    expect(await queue.isPaused()).toBe(true);
  });

  it('BullMQ gets the limit of jobs at a time from the outbox, the operator’s first, and loses it with it', async () => {
    bridge = await setup(kind);
    const { pool, queue, queueOf, log } = bridge;
    const after = async (concurrency: number | null, operator: number | null) => {
      await pool.query('update outbox.queues set concurrency = $2, operator_concurrency = $3 where name = $1', [
        QUEUE,
        concurrency,
        operator,
      ]);
      await applyControls({ pool, queues: [QUEUE], queueOf, log });
      return queue.getGlobalConcurrency();
    };
    expect([await after(5, null), await after(5, 2), await after(null, null)]).toEqual([5, 2, null]);
    await queue.setGlobalConcurrency(1); // by other hands
    expect(await after(5, null)).toBe(5);
  });

  it('nothing is added to a paused queue before BullMQ is paused', async () => {
    bridge = await setup(kind);
    const { pool, queue, publish } = bridge;
    await pool.query("select outbox.pause_queue(name => $1, paused_by => 'ann')", [QUEUE]);
    const addBulk = queue.addBulk.bind(queue);
    const paused: boolean[] = [];
    queue.addBulk = async (jobs) => {
      paused.push(await queue.isPaused());
      return addBulk(jobs);
    };
    await addRow(pool);
    await publish();
    expect(paused).toEqual([true]);
  });
});

it('a stranded job is taken out of Redis whole, and published again', async () => {
  bridge = await setup('redis');
  const id = await bridge.published(HOUR);
  const { redisUrl, prefix } = bridge.keys;
  const redis = new Redis(redisUrl, { keyPrefix: `{${prefix}:${QUEUE}}:${QUEUE}:` });
  await redis.del('delayed');
  expect(await bridge.converge()).toEqual({ stranded: 1 });
  expect(await redis.exists(`${id}-1`)).toBe(0);
  redis.disconnect();
  expect(await bridge.queue.getJobState(`${id}-2`)).toBe('delayed');
});

it('what is lost as a whole is counted once, and a dry run changes nothing', async () => {
  bridge = await setup('redis');
  const id = await bridge.published(HOUR);
  await bridge.keys.removeKeys();
  expect(await bridge.look(true)).toEqual({ epoch: 1 });
  expect(await readRow(bridge.pool, id)).toMatchObject({ state: 'published', generation: 1 });
  expect(await bridge.converge()).toEqual({ epoch: 1 });
});

it('a cancelled job that is on its way out is no drift', async () => {
  bridge = await setup('redis');
  const id = await bridge.published(HOUR);
  await bridge.pool.query("select outbox.cancel_jobs(ids => array[$1::bigint], reason => 'test')", [id]);
  expect(await bridge.look(true)).toEqual({});
});

it('while rows are added, published, run and finished, nothing is found to differ', async () => {
  bridge = await setup('redis');
  const { pool, backend, publish, look } = bridge;
  const worker = backend.createWorker(
    QUEUE,
    (job) => finish(pool, job.id?.replace(/-\d+$/, '') ?? '').then(() => undefined),
    { concurrency: 5 },
  );
  const busy = { done: false };
  const business = (async () => {
    while (!busy.done) {
      await addRow(pool);
      await publish();
    }
  })();
  for (let round = 1; round <= 3; round += 1) expect(await look(true)).toEqual({});
  busy.done = true;
  await business;
  await worker.close();
  await waitFor(async () => expect((await bridge.queue.getJobCounts('active')).active).toBe(0));
});

import { HOUR, MINUTE, createPool, withTransaction, type Pool } from '@outbox/core';
import { createTestDatabase, createTestPrefix, startFaultProxy, waitFor } from '@outbox/testing';
import type { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import {
  addRow,
  addRows,
  BACKENDS,
  countReady,
  countStates,
  createGate,
  interceptAdd,
  JOB,
  openQueues,
  QUEUE,
  readRow,
  readRows,
  type BackendKind,
} from './bridge.fixture.ts';
import { publishBatch } from './publish.ts';

/** BullMQ keeps 12 bits for the order within a millisecond. */
const SCORES_PER_MS = 4_096;

async function setup(kind: BackendKind, { throughProxy = false } = {}) {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  const { prefix, redisUrl } = keys;
  const backendUrl = kind === 'redis' ? redisUrl : database.url;
  const proxy = throughProxy ? await startFaultProxy(backendUrl) : undefined;
  const url = proxy?.url ?? backendUrl;
  const { queue, queueOf, ...queues } = await openQueues(url, prefix, kind === 'postgres' ? url : undefined);
  const { pool } = database;
  return {
    kind,
    pool,
    queue,
    queueOf,
    proxy,
    prefix,
    redisUrl,
    otherPool: () => createPool({ url: database.url, applicationName: 'second', max: 2, onError: () => undefined }),
    publish: (limit = 500) => publishBatch({ pool, queueOf, limit }),
    close: async () => {
      await queues.close();
      await proxy?.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

type Bridge = Awaited<ReturnType<typeof setup>>;
async function jobOf(queue: Queue, id: string) {
  const job = await queue.getJob(id);
  if (!job) throw new Error(`BullMQ has no job ${id}`);
  return job;
}

async function jobIds(queue: Queue): Promise<(string | undefined)[]> {
  return (await queue.getJobs(['waiting', 'prioritized', 'delayed'])).map(({ id }) => id).sort();
}

/** The instant at which BullMQ will hand the job out, epoch milliseconds. */
async function delayedUntil({ kind, pool, redisUrl, prefix }: Bridge, id: string): Promise<number> {
  if (kind === 'postgres') {
    const { rows } = await pool.query<{ at: string }>('select process_at_ms as at from bullmq.job where id = $1', [id]);
    return Number(rows[0]?.at);
  }
  const redis = new Redis(redisUrl);
  const score = await redis.zscore(`{${prefix}:${QUEUE}}:${QUEUE}:delayed`, id);
  redis.disconnect();
  return Math.floor(Number(score) / SCORES_PER_MS);
}

function withClockOffBy<T>(offsetMs: number, work: () => Promise<T>): Promise<T> {
  const now = Date.now.bind(Date);
  const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + offsetMs);
  return work().finally(() => clock.mockRestore());
}

async function cancel(pool: Pool, id: string) {
  await pool.query(`update outbox.jobs set state = 'cancelled', holds_key = false, finished_at = now() where id = $1`, [
    id,
  ]);
}

describe.each(BACKENDS)('on the %s backend', (kind) => {
  const open: Bridge[] = [];

  async function start(options?: { throughProxy: boolean }): Promise<Bridge> {
    const bridge = await setup(kind, options);
    open.push(bridge);
    return bridge;
  }

  afterEach(async () => {
    for (const bridge of open.splice(0)) await bridge.close();
  });

  describe('what becomes of a row', () => {
    it('makes a due row a waiting job with the name and payload of the row, under <id>-<generation>', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool, { payload: { autoSyncId: 'a-1', deep: { list: [1, 'ü'] } } });

      expect(await publish()).toMatchObject({ picked: 1, published: 1 });

      const job = await jobOf(queue, `${id}-1`);
      expect(job).toMatchObject({ name: JOB, data: { autoSyncId: 'a-1', deep: { list: [1, 'ü'] } }, delay: 0 });
      expect(job.opts.priority ?? 0).toBe(0);
      expect(await job.getState()).toBe('waiting');
      expect(await readRow(pool, id)).toMatchObject({ state: 'published', publishedEpoch: '0', ready: [] });
    });

    it('names the job after the generation the row has now', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool);
      await pool.query('update outbox.jobs set generation = 7 where id = $1', [id]);
      await pool.query('update outbox.ready set generation = 7 where job_id = $1', [id]);

      await publish();

      expect(await jobIds(queue)).toEqual([`${id}-7`]);
    });

    it.each([
      ['runs right', 0],
      ['is 10 minutes fast', 10 * MINUTE],
      ['is 10 minutes slow', -10 * MINUTE],
    ])('hands a later row out at its instant by the database clock when our clock %s', async (_title, offsetMs) => {
      const bridge = await start();
      const { pool, queue } = bridge;
      const laterId = await addRow(pool, { dueInMs: 2 * MINUTE });
      const dueId = await addRow(pool);

      await withClockOffBy(offsetMs, () => bridge.publish());

      const { scheduledMs } = await readRow(pool, laterId);
      const job = await jobOf(queue, `${laterId}-1`);
      expect(await job.getState()).toBe('delayed');
      expect(job.timestamp + job.delay).toBeGreaterThanOrEqual(scheduledMs);
      expect(job.timestamp + job.delay).toBeLessThan(scheduledMs + 2);
      expect(await delayedUntil(bridge, `${laterId}-1`)).toBe(job.timestamp + job.delay);
      expect(await (await jobOf(queue, `${dueId}-1`)).getState()).toBe('waiting');
    });

    it('removes the ready entry of a cancelled row without adding a job', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool);
      await cancel(pool, id);

      expect(await publish()).toMatchObject({ picked: 1, published: 0 });

      expect(await readRow(pool, id)).toMatchObject({ state: 'cancelled', ready: [] });
      expect(await jobIds(queue)).toEqual([]);
    });

    it('removes the ready entry of a superseded generation and adds the new one only', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool);
      await pool.query('update outbox.jobs set generation = 2 where id = $1', [id]);
      await pool.query(
        `insert into outbox.ready (job_id, generation, priority, scheduled_at) values ($1, 2, 0, now() - interval '1 s')`,
        [id],
      );

      expect(await publish()).toMatchObject({ picked: 2, published: 1 });

      expect(await readRow(pool, id)).toMatchObject({ state: 'published', generation: 2, ready: [] });
      expect(await jobIds(queue)).toEqual([`${id}-2`]);
    });

    it('leaves a row beyond the publish window in Postgres', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool, { dueInMs: 100 * HOUR });

      expect(await publish()).toMatchObject({ picked: 0, published: 0 });

      expect(await readRow(pool, id)).toMatchObject({ state: 'pending', ready: [1] });
      expect(await jobIds(queue)).toEqual([]);
    });
  });

  describe('which rows go first', () => {
    it('takes the higher priority, then the earlier due, when the limit cuts', async () => {
      const { pool, publish } = await start();
      const low = await addRow(pool, { priority: -5, dueInMs: -9 * MINUTE });
      const late = await addRow(pool, { dueInMs: -1 * MINUTE });
      const early = await addRow(pool, { dueInMs: -5 * MINUTE });
      const high = await addRow(pool, { priority: 10, dueInMs: 5 * MINUTE });

      const order: string[] = [];
      for (let batch = 1; batch <= 4; batch += 1) {
        expect(await publish(1)).toMatchObject({ picked: 1, published: 1 });
        const published = (await readRows(pool)).filter(({ state }) => state === 'published').map(({ id }) => id);
        order.push(...published.filter((id) => !order.includes(id)));
      }

      expect(order).toEqual([high, early, late, low]);
    });
  });

  describe('side by side', () => {
    it('two bridges give each of 200 rows one job and mark them all', async () => {
      const { pool, queue, queueOf, otherPool } = await start();
      const ids = await addRows(pool, 200);
      const second = otherPool();
      const addedBy = async (ownPool: Pool) => {
        let total = 0;
        for (let left = 1; left > 0; left = await countReady(ownPool)) {
          total += (await publishBatch({ pool: ownPool, queueOf, limit: 7 })).published;
        }
        return total;
      };

      const [one, two] = await Promise.all([addedBy(pool), addedBy(second)]);
      await second.end();

      expect(one).toBeGreaterThan(0);
      expect(two).toBeGreaterThan(0);
      expect(one + two).toBe(200);
      expect(await jobIds(queue)).toEqual(ids.map((id) => `${id}-1`).sort());
      expect(await countStates(pool)).toEqual({ published: 200 });
    });
  });

  describe('a crash', () => {
    it.each(['the process fails', 'the database session is gone'])(
      'after the add and before the mark adds no second job (%s)',
      async (crash) => {
        const { pool, queue, publish } = await start();
        const ids = await addRows(pool, 3);
        const repair = interceptAdd(queue, async (add) => {
          const jobs = await add();
          if (crash === 'the process fails') throw new Error('crashed');
          await pool.query(`
          select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and state = 'idle in transaction'`);
          return jobs;
        });

        await expect(publish()).rejects.toThrow();

        expect(await jobIds(queue)).toHaveLength(3);
        expect(await countStates(pool)).toEqual({ pending: 3 });
        expect(await countReady(pool)).toBe(3);

        repair();
        expect(await publish()).toMatchObject({ picked: 3, published: 3 });
        expect(await jobIds(queue)).toEqual(ids.map((id) => `${id}-1`).sort());
        expect(await countStates(pool)).toEqual({ published: 3 });
      },
    );

    it('of the queue backend marks nothing, and the rows are published when it is back', async () => {
      const { pool, queue, proxy, publish } = await start({ throughProxy: true });
      const ids = await addRows(pool, 2);
      await proxy?.cut();

      await expect(publish()).rejects.toThrow();
      expect(await countStates(pool)).toEqual({ pending: 2 });
      expect(await countReady(pool)).toBe(2);

      await proxy?.restore();
      await waitFor(async () => expect(await publish()).toMatchObject({ picked: 2, published: 2 }));
      expect(await jobIds(queue)).toEqual(ids.map((id) => `${id}-1`).sort());
      expect(await countStates(pool)).toEqual({ published: 2 });
    });
  });

  describe('others at the same row', () => {
    it('a row that a worker claims before the mark stays active, and its ready entry goes', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool);
      interceptAdd(queue, async (add) => {
        const jobs = await add();
        await pool.query(
          `update outbox.jobs set state = 'active', run = 1, attempt = 1, locked_until = now() + interval '15 s'
         where id = $1`,
          [id],
        );
        return jobs;
      });

      await publish();

      expect(await readRow(pool, id)).toMatchObject({ state: 'active', publishedEpoch: null, ready: [] });
    });

    it.each([
      ['is cancelled', 'cancelled', (pool: Pool, id: string) => cancel(pool, id)],
      [
        'gets a new generation',
        'pending',
        (pool: Pool, id: string) => pool.query('update outbox.jobs set generation = 2 where id = $1', [id]),
      ],
    ])(
      'a row that %s between the add and the mark stays so, and its job is to be removed',
      async (_title, state, change) => {
        const { pool, queue, publish } = await start();
        const id = await addRow(pool);
        await addRow(pool);
        interceptAdd(queue, async (add) => {
          const jobs = await add();
          await change(pool, id);
          return jobs;
        });

        await publish();

        expect(await countStates(pool)).toEqual({ published: 1, [state]: 1 });
        expect(await readRow(pool, id)).toMatchObject({ state, ready: [] });
        const { rows } = await pool.query('select queue, job_id, generation from outbox.removals');
        expect(rows).toEqual([{ queue: QUEUE, job_id: id, generation: 1 }]);
      },
    );

    it('a row that a business transaction has locked is put off, not lost, and delays no other', async () => {
      const { pool, queue, publish } = await start();
      const [locked = '', ...others] = await addRows(pool, 5);

      await withTransaction(pool, async (business) => {
        await business.query('select from outbox.jobs where id = $1 for update', [locked]);
        await publish();
        expect(await countStates(pool)).toEqual({ pending: 1, published: others.length });
        expect(await readRow(pool, locked)).toMatchObject({ state: 'pending', ready: [1] });
        // Not in a busy loop: the next look passes it over.
        expect(await publish()).toMatchObject({ picked: 0, published: 0 });
      });

      await waitFor(async () => expect((await publish()).picked).toBe(1));
      expect(await readRow(pool, locked)).toMatchObject({ state: 'published', ready: [] });
      expect(await jobIds(queue)).toHaveLength(5);
    });

    it('a business transaction can lock and change a row at once while the queue backend hangs on it', async () => {
      const { pool, queue, publish } = await start();
      const id = await addRow(pool);
      const hung = createGate();
      const answer = createGate();
      interceptAdd(queue, async (add) => {
        hung.open();
        await answer.opened;
        return add();
      });
      const publishing = publish();
      await hung.opened;

      await withTransaction(pool, async (business) => {
        await business.query(`set local lock_timeout = '100ms'`);
        await business.query('select from outbox.jobs where id = $1 for update', [id]);
        await business.query(
          `update outbox.jobs set state = 'cancelled', holds_key = false, finished_at = now() where id = $1`,
          [id],
        );
      });
      expect(await readRow(pool, id)).toMatchObject({ state: 'cancelled' });

      answer.open();
      await publishing;
      expect(await readRow(pool, id)).toMatchObject({ state: 'cancelled', ready: [] });
    });
  });
});

import { captureLogs, createTestDatabase, createTestPrefix, waitFor } from '@outbox/testing';
import { Worker } from 'bullmq';
import {
  addRow,
  addRows,
  countStates,
  createGate,
  interceptAdd,
  openQueues,
  QUEUE,
  readRow,
} from './bridge.fixture.ts';
import { publishBatch } from './publish.ts';
import { BEGINNING } from './cursor.ts';
import { followEpoch, takeBackOlder } from './epochs.ts';
import { findLost, takeBackLost } from './lost-jobs.ts';
import { Reconciler } from './reconciler.ts';
import { unpublish } from './unpublish.ts';

const FUTURE_MS = 60 * 60 * 1_000;
const EVER = { cursor: BEGINNING, withinMs: 10 * FUTURE_MS };

async function setup() {
  const database = await createTestDatabase();
  const keys = createTestPrefix();
  const { pool } = database;
  const queues = await openQueues(keys.redisUrl, keys.prefix);
  const { log, lines } = captureLogs();
  const prepare = () => Promise.resolve();
  const options = { pool, backend: queues.backend, queues: [QUEUE], prepare, log };
  await followEpoch(options, QUEUE, new Map());
  return {
    ...{ pool, options, lines, keys, queue: queues.queue },
    publish: () => publishBatch({ pool, queueOf: queues.queueOf, limit: 5_000 }),
    /** What one round of the reconciler does about epochs. */
    followAndTakeBack: async () => {
      await followEpoch(options, QUEUE, new Map());
      const { returned } = await takeBackOlder(pool, [QUEUE]);
      return returned.total;
    },
    delayed: async () => (await queues.queue.getDelayed()).map(({ id }) => id),
    close: async () => {
      await queues.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

let bridge: Awaited<ReturnType<typeof setup>>;
beforeEach(async () => {
  bridge = await setup();
});
afterEach(() => bridge.close());

describe('when a queue has lost all its data', () => {
  it('every published row is published again, under a new generation and at its old instant', async () => {
    const { pool, publish, keys, followAndTakeBack, delayed, queue } = bridge;
    const id = await addRow(pool, { dueInMs: FUTURE_MS });
    await publish();
    const before = await readRow(pool, id);
    await keys.removeKeys();

    expect(await followAndTakeBack()).toBe(1);
    expect(await readRow(pool, id)).toMatchObject({ state: 'pending', generation: 2, ready: [2] });
    await publish();

    expect(await delayed()).toEqual([`${id}-2`]);
    const job = await queue.getJob(`${id}-2`);
    expect((job?.timestamp ?? 0) + (job?.delay ?? 0)).toBe(Math.ceil(before.scheduledMs));
    expect(await followAndTakeBack()).toBe(0);
  });

  it('thousands of rows go back in one round, and none that had ended', async () => {
    const { pool, publish, keys, followAndTakeBack } = bridge;
    const [finished] = await addRows(pool, 2_500);
    await publish();
    await pool.query("update outbox.jobs set state = 'completed', finished_at = now() where id = $1", [finished]);
    await keys.removeKeys();

    expect(await followAndTakeBack()).toBe(2_499);
    expect(await countStates(pool)).toEqual({ pending: 2_499, completed: 1 });
  });

  it('a publish that was under way meanwhile and commits later is found', async () => {
    const { pool, publish, keys, followAndTakeBack, queue } = bridge;
    await addRow(pool, { dueInMs: FUTURE_MS });
    const [added, mayMark] = [createGate(), createGate()];
    const restore = interceptAdd(queue, async (add) => {
      const jobs = await add();
      added.open();
      await mayMark.opened;
      return jobs;
    });
    const published = publish();
    await added.opened;
    await keys.removeKeys();
    expect(await followAndTakeBack()).toBe(0);

    mayMark.open();
    await published;
    restore();
    expect(await countStates(pool)).toEqual({ published: 1 });
    expect((await takeBackOlder(pool, [QUEUE])).returned.total).toBe(1);
  });

  it('two bridges raise the epoch once, and both know that rows are to be taken back', async () => {
    const { pool, options, keys } = bridge;
    const [first, second] = [new Map([[QUEUE, '1']]), new Map([[QUEUE, '1']])];
    await keys.removeKeys();
    const changed = await Promise.all([followEpoch(options, QUEUE, first), followEpoch(options, QUEUE, second)]);
    const later = [await followEpoch(options, QUEUE, first), await followEpoch(options, QUEUE, second)];
    const { rows } = await pool.query<{ epoch: string }>('select epoch from outbox.queues where name = $1', [QUEUE]);
    expect(rows).toEqual([{ epoch: '2' }]);
    expect(changed.map((at, index) => at || later[index])).toEqual([true, true]);
    expect([first.get(QUEUE), second.get(QUEUE)]).toEqual(['2', '2']);
  });

  it('an active row goes back only when its lease is over, and spends no attempt', async () => {
    const { pool, publish, keys, followAndTakeBack } = bridge;
    const [running, dead] = [await addRow(pool), await addRow(pool)];
    await publish();
    await pool.query(
      `update outbox.jobs
       set state = 'active', run = outbox.new_run(), attempt = 1, locked_by = 'a worker', started_at = now(),
           locked_until = now() + case when id = $1 then interval '1 min' else interval '-1 ms' end`,
      [running],
    );
    await keys.removeKeys();

    expect(await followAndTakeBack()).toBe(1);
    const { rows } = await pool.query('select id, state, attempt, interruptions from outbox.jobs order by id');
    expect(rows).toEqual([
      { id: running, state: 'active', attempt: 1, interruptions: 0 },
      { id: dead, state: 'pending', attempt: 0, interruptions: 1 },
    ]);
  });
});

it('the jobs of all queues go back in one order, the earliest due first, also behind one that is locked', async () => {
  const { pool, publish, keys, options } = bridge;
  await addRows(pool, 1_200);
  await publish();
  await pool.query("update outbox.jobs set scheduled_at = now() - id * interval '1 s'");
  await keys.removeKeys();
  await followEpoch(options, QUEUE, new Map());
  const holder = await pool.connect();
  await holder.query('begin');
  await holder.query('select from outbox.jobs order by scheduled_at limit 1 for update');
  const { found, returned } = await takeBackOlder(pool, [QUEUE]);
  await holder.query('rollback');
  holder.release();
  expect({ found, returned: returned.total }).toEqual({ found: 1_200, returned: 1_199 });
  expect(await takeBackOlder(pool, [QUEUE])).toMatchObject({ found: 1 });
});

describe('when a queue has lost some of its jobs', () => {
  it('the scan publishes those again, and leaves the others alone', async () => {
    const { pool, publish, options, queue, delayed } = bridge;
    const ids = [await addRow(pool, { dueInMs: FUTURE_MS }), await addRow(pool, { dueInMs: FUTURE_MS })];
    await publish();
    await queue.remove(`${ids[0]}-1`);

    const { lost, next } = await findLost(options, EVER);
    expect(next).toEqual(BEGINNING);
    expect(await unpublish(pool, lost)).toBe(1);
    await publish();
    expect((await delayed()).sort()).toEqual([`${ids[0]}-2`, `${ids[1]}-1`].sort());
  });

  it('a job that BullMQ keeps as completed, while its row is not, is added again under an id that is free', async () => {
    const { pool, publish, options, queue, keys } = bridge;
    const id = await addRow(pool);
    await publish();
    // Somebody else's worker ate it.
    const thief = new Worker(QUEUE, () => Promise.resolve('eaten'), {
      connection: { url: keys.redisUrl },
      prefix: `{${keys.prefix}:${QUEUE}}`,
    });
    await new Promise((resolve) => thief.once('completed', resolve));
    await thief.close();
    expect(await queue.getJobState(`${id}-1`)).toBe('completed');

    const { lost } = await findLost(options, { cursor: BEGINNING, withinMs: 0 });
    expect(await unpublish(pool, lost)).toBe(1);
    await publish();
    expect(await queue.getJobState(`${id}-2`)).toBe('waiting');
  });

  it('what other hands, or a process with a wrong clock, have put off far beyond its instant comes back', async () => {
    const { pool, publish, options, queue } = bridge;
    const [late, soon] = [await addRow(pool, { dueInMs: FUTURE_MS }), await addRow(pool, { dueInMs: FUTURE_MS })];
    await publish();
    await pool.query("update outbox.jobs set scheduled_at = now() - interval '20 s'");
    await (await queue.getJob(`${soon}-1`))?.changeDelay(5_000);

    const { lost } = await findLost(options, EVER);
    expect(lost).toMatchObject([{ id: late, place: 'late' }]);
    expect((await takeBackLost(pool, [QUEUE], lost)).total).toBe(1);
    expect(await readRow(pool, late)).toMatchObject({ state: 'pending', generation: 2 });
    const { rows } = await pool.query('select job_id, generation from outbox.removals');
    expect(rows).toEqual([{ job_id: late, generation: 1 }]);
  });

  it('the look at what is overdue does not touch what is not', async () => {
    const { pool, publish, options, keys } = bridge;
    const overdue = await addRow(pool, { dueInMs: -60_000 });
    await addRow(pool, { dueInMs: FUTURE_MS });
    await publish();
    await keys.removeKeys();
    const { lost } = await findLost(options, { cursor: BEGINNING, withinMs: -15_000 });
    expect(lost).toMatchObject([{ id: overdue }]);
  });

  it('the scan goes on behind the last row it saw, even if a thousand are due in the same instant', async () => {
    const { pool, publish, options, keys } = bridge;
    await addRows(pool, 1_500);
    await publish();
    await keys.removeKeys();
    const first = await findLost(options, EVER);
    const second = await findLost(options, { ...EVER, cursor: first.next });
    expect([first.lost.length, second.lost.length]).toEqual([1_000, 500]);
    expect(new Set([...first.lost, ...second.lost].map(({ id }) => id)).size).toBe(1_500);
    expect(second.next).toEqual(BEGINNING);
  });

  it('a row that has moved on since it was looked for is not taken back', async () => {
    const { pool, publish, options, keys } = bridge;
    const id = await addRow(pool);
    await publish();
    await keys.removeKeys();
    const { lost } = await findLost(options, EVER);
    await pool.query("update outbox.jobs set state = 'completed', finished_at = now()");
    expect(await unpublish(pool, lost)).toBe(0);
    expect(await readRow(pool, id)).toMatchObject({ state: 'completed', generation: 1 });
  });
});

it('a running reconciler takes each lost row back once, whichever of its nets sees it first', async () => {
  const { pool, publish, keys, options } = bridge;
  await addRows(pool, 200);
  await publish();
  const reconciler = new Reconciler({ ...options, heldBy: () => undefined });
  await reconciler.start();
  await keys.removeKeys();
  await waitFor(async () => expect(await countStates(pool)).toEqual({ pending: 200 }));
  await reconciler.stop();
  const { rows } = await pool.query('select distinct generation from outbox.jobs');
  expect(rows).toEqual([{ generation: 2 }]);
});

import { HOUR, MINUTE, SECOND, withTransaction, type Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, createTestPrefix, waitFor } from '@outbox/testing';
import {
  addRow,
  addRows,
  BACKENDS,
  countStates,
  createGate,
  interceptAdd,
  openQueues,
  readRow,
  type BackendKind,
} from './bridge.fixture.ts';
import { PublishLoop } from './publish-loop.ts';
import { writePublishWindow } from './publish-window.ts';
import { WakeUp } from './wake-up.ts';

const LISTENER = 'outbox bridge listen';

interface Options {
  pollMs?: number;
  listen?: boolean;
}

class WatchedWakeUp extends WakeUp {
  asked = 0;
  slept = 0;
  crowd = false;

  override acquire(): Promise<void> {
    this.asked += 1;
    return super.acquire();
  }

  override isCrowded(): Promise<boolean> {
    return this.crowd ? Promise.resolve(true) : super.isCrowded();
  }

  override wait(timeoutMs: number): Promise<void> {
    this.slept += 1;
    return super.wait(timeoutMs);
  }
}

async function setup(kind: BackendKind, { pollMs = 1 * SECOND, listen = true }: Options = {}) {
  const database = await createTestDatabase();
  const { pool, url } = database;
  const keys = createTestPrefix();
  const { prefix, redisUrl } = keys;
  const { queue, queueOf, ...queues } = await openQueues(redisUrl, prefix, kind === 'postgres' ? url : undefined);
  const { log, lines } = captureLogs();
  const wakeUp = listen ? new WatchedWakeUp({ url, role: undefined, log }) : undefined;
  const held: { by?: string } = {};
  const loop = new PublishLoop({
    ...{ pool, queueOf, limit: 100, wakeUp, pollMs, log },
    heldBy: () => held.by,
    fullBecause: () => undefined,
  });
  return {
    pool,
    queue,
    loop,
    held,
    lines,
    wakeUp,
    /** Asleep: connected and without the lock that tells writers that it looks by itself. */
    untilAsleep: () => waitFor(async () => expect(await listenerOf(pool)).toEqual({ connected: true, awake: false })),
    untilAwake: () => waitFor(async () => expect(await listenerOf(pool)).toEqual({ connected: true, awake: true })),
    untilPublished: async (count: number) => {
      await waitFor(async () => expect(await countStates(pool)).toEqual({ published: count }), { intervalMs: 2 });
    },
    close: async () => {
      await loop.stop();
      await wakeUp?.close();
      await queues.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

/** Of the connection that listens: whether it is there, and whether it holds the lock that says that the bridge is awake. */
async function listenerOf(pool: Pool): Promise<{ connected: boolean; awake: boolean } | undefined> {
  const { rows } = await pool.query<{ connected: boolean; awake: boolean }>(
    `select count(*) > 0 as connected,
       count(*) filter (where exists (
         select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' and l.granted
       )) > 0 as awake
     from pg_stat_activity a
     where a.datname = current_database() and a.application_name = $1`,
    [LISTENER],
  );
  return rows[0];
}

type Bundle = Awaited<ReturnType<typeof setup>>;
async function msOf(work: Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work;
  return performance.now() - started;
}

describe.each(BACKENDS)('on the %s backend', (kind) => {
  const open: Bundle[] = [];

  async function start(options?: Options): Promise<Bundle> {
    const bundle = await setup(kind, options);
    open.push(bundle);
    bundle.loop.start();
    return bundle;
  }

  afterEach(async () => {
    for (const bundle of open.splice(0)) await bundle.close();
  });

  it('publishes what was committed before it started', async () => {
    const bundle = await setup(kind);
    open.push(bundle);
    await addRows(bundle.pool, 250);
    bundle.loop.start();
    await bundle.untilPublished(250);
    expect(await bundle.queue.getJobCountByTypes('waiting')).toBe(250);
  });

  it('publishes within about 100 ms of a commit while asleep, without waiting for the poll', async () => {
    const { pool, untilAsleep, untilPublished } = await start({ pollMs: 1 * SECOND });
    const latencies: number[] = [];
    for (let round = 1; round <= 5; round += 1) {
      await untilAsleep();
      await addRow(pool);
      latencies.push(await msOf(untilPublished(round)));
    }
    // The middle one, for a machine that is busy: by polling alone it would be about half a second.
    expect(latencies.sort((a, b) => a - b)[2]).toBeLessThan(150);
  });

  it('is awake soon though writers, who hold its lock shared, leave it no pause', async () => {
    const { pool, lines, untilAwake } = await start();
    await withTransaction(pool, async (business) => {
      await business.query(`select pg_advisory_xact_lock_shared(outbox.awake_lock())`);
      await addRow(pool);
      await waitFor(() => expect(lines).toContainEqual(expect.objectContaining({ msg: 'rows published' })));
    });
    const writing = new AbortController();
    const writer = (async () => {
      while (!writing.signal.aborted) await addRow(pool);
    })();
    try {
      await untilAwake();
    } finally {
      writing.abort();
      await writer;
    }
  });

  it('is woken by a commit however long the poll', async () => {
    const { pool, untilAsleep, untilPublished } = await start({ pollMs: 5 * MINUTE });
    for (let round = 1; round <= 3; round += 1) {
      await untilAsleep();
      await addRow(pool);
      await untilPublished(round);
    }
  });

  it('sleeps again at once after a row now and then, and stays awake for more', async () => {
    const { pool, wakeUp, untilPublished } = await start({ pollMs: 5 * MINUTE });
    for (let round = 1; round <= 3; round += 1) {
      await waitFor(() => expect(wakeUp?.slept).toBe(round));
      await addRow(pool);
      await untilPublished(round);
    }
    await waitFor(() => expect(wakeUp?.slept).toBe(4));
    expect(wakeUp?.asked).toBe(0);

    await addRows(pool, 250); // more than one look takes
    await untilPublished(253);
    expect(wakeUp?.asked).toBeGreaterThan(0);
  });

  it('stays awake while writers wait for each other to notify', async () => {
    const { wakeUp, untilAwake } = await start({ pollMs: 50 });
    await waitFor(() => expect(wakeUp?.slept).toBeGreaterThan(0));
    expect(wakeUp?.asked).toBe(0);
    if (wakeUp) wakeUp.crowd = true;
    await untilAwake();
  });

  it('is not to be notified while it can publish nothing', async () => {
    const { held, untilAwake, untilAsleep } = await start();
    await untilAsleep();
    held.by = 'restored';
    await untilAwake();
    delete held.by;
    await untilAsleep();
  });

  it('a row that the backend refuses keeps no other from its turn, and no cancelled job in the queue', async () => {
    const bundle = await setup(kind);
    open.push(bundle);
    const { pool, queue, loop, lines } = bundle;
    const refused = await addRow(pool, { priority: 1 });
    const addBulk = queue.addBulk.bind(queue);
    queue.addBulk = (jobs) =>
      jobs.some(({ opts }) => opts?.jobId === `${refused}-1`)
        ? Promise.reject(new Error('not this one'))
        : addBulk(jobs);
    const other = await addRow(pool, { serialKey: 'a key' });
    await queue.add('cancelled', {}, { jobId: '4711-1', delay: 1 * HOUR });
    await pool.query('insert into outbox.removals (queue, job_id, generation) values ($1, 4711, 1)', [queue.name]);

    loop.start();

    await waitFor(() => expect(lines).toContainEqual(expect.objectContaining({ msg: 'publish failed' })));
    await waitFor(async () => expect(await readRow(pool, other)).toMatchObject({ state: 'published' }));
    await waitFor(async () => expect(await queue.getJob('4711-1')).toBeUndefined());
    expect(await readRow(pool, refused)).toMatchObject({ state: 'pending' });
  });

  it('lets the next of a serial key in as soon as it is woken, and when it is due', async () => {
    const { pool, wakeUp, untilPublished } = await start({ pollMs: 5 * MINUTE });
    await waitFor(() => expect(wakeUp?.slept).toBe(1));
    for (let round = 1; round <= 3; round += 1) {
      await addRow(pool, { serialKey: `key ${round}` });
      await untilPublished(round);
    }
    await addRow(pool, { serialKey: 'later', dueInMs: 300 });
    await untilPublished(4);
  });

  it('finds a row soon that was written while it was awake and committed when it slept', async () => {
    const { pool, untilAwake, untilAsleep, untilPublished } = await start({ pollMs: 5 * MINUTE });
    const writing = new AbortController();
    const busy = (async () => {
      while (!writing.signal.aborted) await addRows(pool, 10);
    })();
    await withTransaction(pool, async (business) => {
      await untilAwake();
      await addRow(business);
      writing.abort();
      await busy;
      await untilAsleep();
    });
    const { rows } = await pool.query<{ count: number }>('select count(*)::int from outbox.jobs');
    await untilPublished(Number(rows[0]?.count));
  });

  it('finds a row by the poll when nobody notifies it', async () => {
    const { pool, untilAsleep, untilPublished } = await start({ pollMs: 100 });
    await untilAsleep();
    await pool.query('alter table outbox.ready disable trigger wake_bridge');
    await addRow(pool);
    await untilPublished(1);
  });

  it('polls without a listening connection behind a transaction pooler', async () => {
    const { pool, untilPublished } = await start({ pollMs: 50, listen: false });
    await addRow(pool);
    await untilPublished(1);
    const { rowCount } = await pool.query(
      'select from pg_stat_activity where application_name = $1 and datname = current_database()',
      [LISTENER],
    );
    expect(rowCount).toBe(0);
  });

  it('goes on after errors of the backend and says so meanwhile', async () => {
    const { pool, queue, loop, lines, untilPublished } = await start();
    let broken = true;
    interceptAdd(queue, (add) => (broken ? Promise.reject(new Error('OOM command not allowed')) : add()));
    await addRow(pool);
    await waitFor(() => expect(loop.problem).toContain('OOM'));
    expect(await countStates(pool)).toEqual({ pending: 1 });

    broken = false;
    await untilPublished(1);
    await waitFor(() => expect(loop.problem).toBeUndefined());
    expect(lines).toContainEqual(expect.objectContaining({ level: 'error', msg: 'publish failed' }));
    expect(lines).toContainEqual(expect.objectContaining({ level: 'info', msg: 'rows published', published: 1 }));
  });

  it('does nothing while it is held, says why, and goes on afterwards', async () => {
    const { pool, queue, loop, held, untilPublished } = await start();
    const id = await addRow(pool, { dueInMs: 1 * HOUR });
    await untilPublished(1);
    held.by = 'restored';
    await waitFor(() => expect(loop.problem).toBe('restored'));
    await pool.query('insert into outbox.removals (queue, job_id, generation) values ($1, $2, 1)', [queue.name, id]);
    await addRow(pool);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await countStates(pool)).toEqual({ pending: 1, published: 1 });
    expect(await queue.getJob(`${id}-1`)).toBeDefined();

    delete held.by;
    await untilPublished(2);
    await waitFor(() => expect(loop.problem).toBeUndefined());
    await waitFor(async () => expect(await queue.getJob(`${id}-1`)).toBeUndefined());
  });

  it('publishes what has piled up by priority, then by the time it was due', async () => {
    const bundle = await setup(kind);
    open.push(bundle);
    const rows = Array.from({ length: 150 }, (_, n) => ({ dueInMs: -1_000 * ((n * 37) % 150) - 1, priority: n % 3 }));
    const ids = await Promise.all(rows.map((row) => addRow(bundle.pool, row)));
    await bundle.pool.query('analyze outbox.jobs, outbox.ready');
    bundle.loop.start();
    await bundle.untilPublished(150);

    const inOrder = rows
      .map((row, at) => ({ ...row, id: ids[at] }))
      .sort((a, b) => b.priority - a.priority || a.dueInMs - b.dueInMs)
      .map(({ id }) => `${id}-1`);
    expect((await bundle.queue.getWaiting()).map(({ id }) => id)).toEqual(inOrder);
  });

  it('takes a cancelled job out of BullMQ within a moment, also while asleep', async () => {
    const { pool, queue, untilAsleep, untilPublished } = await start({ pollMs: 5 * MINUTE });
    const id = await addRow(pool, { dueInMs: 1 * HOUR });
    await untilPublished(1);
    await untilAsleep();
    await pool.query('insert into outbox.removals (queue, job_id, generation) values ($1, $2, 1)', [queue.name, id]);
    await waitFor(async () => expect(await queue.getJob(`${id}-1`)).toBeUndefined());
  });

  it('brings a far row near once the publish window reaches it, and not before', async () => {
    const { pool, queue, untilPublished } = await start();
    const farId = await addRow(pool, { dueInMs: 100 * HOUR });
    await addRow(pool);
    await waitFor(async () => expect(await countStates(pool)).toEqual({ pending: 1, published: 1 }));
    expect(await readRow(pool, farId)).toMatchObject({ state: 'pending', ready: [1] });

    await writePublishWindow(pool, 200 * HOUR);

    await untilPublished(2);
    expect(await (await queue.getJob(`${farId}-1`))?.getState()).toBe('delayed');
  });

  it('stop finishes the batch in hand, then ends quickly and takes nothing more', async () => {
    const { pool, queue, loop } = await start();
    const begun = createGate();
    const goOn = createGate();
    interceptAdd(queue, async (add) => {
      begun.open();
      await goOn.opened;
      return add();
    });
    await addRow(pool);
    await begun.opened;

    const order: string[] = [];
    const stopped = loop.stop().then(() => order.push('stopped'));
    const late = await addRow(pool);
    order.push('let go');
    goOn.open();

    expect(await msOf(stopped)).toBeLessThan(1 * SECOND);
    expect(order).toEqual(['let go', 'stopped']);
    expect(await countStates(pool)).toEqual({ published: 1, pending: 1 });
    expect(await readRow(pool, late)).toMatchObject({ state: 'pending' });
  });

  it('stop wakes a sleeping loop and may be called twice', async () => {
    const { loop, untilAsleep } = await start({ pollMs: 5 * MINUTE });
    await untilAsleep();
    expect(await msOf(Promise.all([loop.stop(), loop.stop()]))).toBeLessThan(1 * SECOND);
  });
});

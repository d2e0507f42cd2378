import { createPool, HOUR, MINUTE, SECOND, withTransaction, type Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, createTestPrefix, waitFor } from '@outbox/testing';
import { admitNext } from './admit.ts';
import { addRow, countStates, openQueues, QUEUE, readRow } from './bridge.fixture.ts';
import { PublishLoop } from './publish-loop.ts';
import { publishBatch } from './publish.ts';
import { WakeUp } from './wake-up.ts';

const KEY = 'crew:1';

async function setup() {
  const database = await createTestDatabase();
  const { pool, url } = database;
  const keys = createTestPrefix();
  const queues = await openQueues(keys.redisUrl, keys.prefix);
  const { queue, queueOf } = queues;
  const stops: (() => Promise<void>)[] = [];
  return {
    pool,
    queue,
    publish: () => publishBatch({ pool, queueOf, limit: 500 }),
    /** A second bridge's connections. */
    otherPool: () => {
      const other = createPool({ url, applicationName: 'other bridge', max: 3, onError: () => undefined });
      stops.push(() => other.end());
      return other;
    },
    /** A bridge that sleeps as soon as it can, and looks by itself only after `pollMs`. */
    startLoop: (pollMs: number) => {
      const { log } = captureLogs();
      const wakeUp = new WakeUp({ url, role: undefined, log });
      const loop = new PublishLoop({
        heldBy: () => undefined,
        fullBecause: () => undefined,
        pool,
        queueOf,
        limit: 100,
        wakeUp,
        pollMs,
        log,
      });
      stops.push(async () => {
        await loop.stop();
        await wakeUp.close();
      });
      loop.start();
    },
    close: async () => {
      await Promise.all(stops.map((stop) => stop()));
      await queues.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

type Bridge = Awaited<ReturnType<typeof setup>>;
let bridge: Bridge;
beforeEach(async () => {
  bridge = await setup();
});
afterEach(() => bridge.close());

const addTurn = (request: Parameters<typeof addRow>[1] = {}) => addRow(bridge.pool, { serialKey: KEY, ...request });

/** Ids of the rows that have their turn, in order. */
async function admitted(): Promise<string[]> {
  const { rows } = await bridge.pool.query<{ id: string }>('select id from outbox.jobs where admitted order by id');
  return rows.map(({ id }) => id);
}

/** Looks until nothing changes: a row that was cancelled while it waited takes a look of its own. */
async function admitAll(): Promise<string[]> {
  while ((await admitNext(bridge.pool)).letGo > 0);
  return admitted();
}

/** A worker takes the row's job. */
async function claim(id: string): Promise<void> {
  await bridge.pool.query(
    `update outbox.jobs
     set state = 'active', run = outbox.new_run(), attempt = attempt + 1, started_at = clock_timestamp(),
       locked_until = clock_timestamp() + interval '15 s'
     where id = $1`,
    [id],
  );
}

/** The end of a run as the worker writes it. */
async function end(id: string, state: 'completed' | 'skipped' | 'failed'): Promise<void> {
  await bridge.pool.query(
    `update outbox.jobs
     set state = $2, locked_until = null, finished_at = clock_timestamp(), holds_key = false, admitted = false
     where id = $1`,
    [id, state],
  );
}

async function cancel(id: string): Promise<void> {
  await bridge.pool.query("select outbox.cancel_jobs(ids => array[$1::bigint], reason => 'test')", [id]);
}

/** BullMQ takes every job but this row's. */
function refuse({ queue }: Bridge, id: string): void {
  const addBulk = queue.addBulk.bind(queue);
  queue.addBulk = (jobs) =>
    jobs.some(({ opts }) => opts?.jobId?.startsWith(`${id}-`))
      ? Promise.reject(new Error('Refused for a reason of its own'))
      : addBulk(jobs);
}

describe('one at a time', () => {
  it('bridges that look side by side, time and again, never admit two of one key, and forget none', async () => {
    const keys = Array.from({ length: 5 }, (_, n) => `crew:${n}`);
    for (const serialKey of keys) for (let n = 0; n < 8; n += 1) await addTurn({ serialKey });
    const pools = [bridge.pool, bridge.otherPool(), bridge.otherPool()];
    const seen: string[] = [];
    for (let round = 0; round < 8; round += 1) {
      await waitFor(async () => {
        await Promise.all(pools.flatMap((pool) => [admitNext(pool), admitNext(pool)]));
        const { rows } = await bridge.pool.query('select serial_key from outbox.jobs where admitted order by 1');
        expect(rows).toEqual(keys.map((serial_key) => ({ serial_key })));
      });
      const turns = await admitted();
      seen.push(...turns);
      for (const id of turns) await end(id, 'completed');
    }
    expect(new Set(seen).size).toBe(40);
    expect(await countStates(bridge.pool)).toEqual({ completed: 40 });
  });

  it('who admits past the lock of the bridges is stopped by the index, and the bridge looks again at once', async () => {
    const [first, second] = [await addTurn(), await addTurn()];
    await withTransaction(bridge.otherPool(), async (other) => {
      await other.query('update outbox.jobs set admitted = true where id = $1', [second]);
      // The bridge does not see the other's row, and waits for its end in the index.
      const looking = admitNext(bridge.pool);
      await waitFor(async () => {
        const { rows } = await bridge.pool.query(
          "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        expect(rows).toHaveLength(1);
      });
      await other.query('commit');
      expect(await looking).toEqual({ letGo: 0, nextInMs: 0 });
      await other.query('begin');
    });
    expect(await admitted()).toEqual([second]);
    expect(await readRow(bridge.pool, first)).toMatchObject({ state: 'pending', ready: [1] });
  });

  it('a row is published only once it has its turn', async () => {
    const [first, second] = [await addTurn(), await addTurn()];
    expect(await bridge.publish()).toMatchObject({ picked: 0 });
    await admitAll();
    expect(await bridge.publish()).toMatchObject({ picked: 1, published: 1 });
    expect((await bridge.queue.getJobs()).map(({ id }) => id)).toEqual([`${first}-1`]);
    expect(await readRow(bridge.pool, second)).toMatchObject({ state: 'pending', ready: [1] });
  });

  it('two keys do not block each other', async () => {
    const ids = [await addTurn({ serialKey: 'crew:1' }), await addTurn({ serialKey: 'crew:2' })];
    await addTurn({ serialKey: 'crew:1' });
    expect(await admitAll()).toEqual(ids);
  });
});

describe('whose turn is next', () => {
  const ends: [string, (first: string) => Promise<unknown>][] = [
    ['is completed', (first) => end(first, 'completed')],
    ['is skipped', (first) => end(first, 'skipped')],
    ['has failed', (first) => end(first, 'failed')],
    ['is cancelled before it is published', cancel],
    [
      'is cancelled after it was published',
      async (first) => {
        await bridge.publish();
        await cancel(first);
      },
    ],
    [
      'is refused by the queue five times',
      async (first) => {
        refuse(bridge, first);
        await waitFor(async () => {
          await addRow(bridge.pool); // what is accepted beside it shows that the refusal is its own
          await bridge.publish();
          expect(await readRow(bridge.pool, first)).toMatchObject({ state: 'failed' });
        });
      },
    ],
  ];
  it.each(ends)('the next has its turn when the first %s, and not before', async (_title, endFirst) => {
    const [first, second] = [await addTurn(), await addTurn()];
    expect(await admitAll()).toEqual([first]);
    expect(await admitAll()).toEqual([first]);
    await endFirst(first);
    expect(await admitAll()).toEqual([second]);
  });

  it('a running row that is to be cancelled keeps its turn until it has ended', async () => {
    const [first, second] = [await addTurn(), await addTurn()];
    await admitAll();
    await claim(first);
    await cancel(first);
    expect(await admitAll()).toEqual([first]);
    await end(first, 'failed');
    expect(await admitAll()).toEqual([second]);
  });

  it('goes by priority, then by the earlier due time', async () => {
    const low = await addTurn({ priority: -5, dueInMs: -9 * MINUTE });
    const late = await addTurn({ dueInMs: -1 * MINUTE });
    const early = await addTurn({ dueInMs: -5 * MINUTE });
    const high = await addTurn({ priority: 10, dueInMs: -1 * SECOND });
    const order: string[] = [];
    for (let turn = 1; turn <= 4; turn += 1) {
      const [id = ''] = await admitAll();
      order.push(id);
      await end(id, 'completed');
    }
    expect(order).toEqual([high, early, late, low]);
  });

  it.each([70 * HOUR, 100 * HOUR])('a job due in %d ms does not block one that is due now', async (dueInMs) => {
    await addTurn({ dueInMs, priority: 100 });
    expect(await admitAll()).toEqual([]);
    const due = await addTurn();
    expect(await admitAll()).toEqual([due]);
  });

  it('rows that were cancelled while they waited do not block their key, and are cleared away', async () => {
    const cancelled = [await addTurn({ priority: 9 }), await addTurn({ priority: 8 }), await addTurn({ priority: 7 })];
    const next = await addTurn();
    for (const id of cancelled) await cancel(id);
    expect(await admitAll()).toEqual([next]);
    await bridge.publish();
    for (const id of [...cancelled, next]) expect(await readRow(bridge.pool, id)).toMatchObject({ ready: [] });
  });

  it('a row that a business transaction has locked is passed over, and delays neither its key nor another', async () => {
    const [locked, next] = [await addTurn(), await addTurn()];
    const other = await addTurn({ serialKey: 'crew:2' });
    await withTransaction(bridge.otherPool(), async (business) => {
      await business.query('select from outbox.jobs where id = $1 for no key update', [locked]);
      expect(await admitAll()).toEqual([next, other]);
    });
    await end(next, 'completed');
    expect(await admitAll()).toEqual([locked, other]);
  });

  it('a thousand keys that wait for their time keep no other key waiting', async () => {
    await bridge.pool.query(
      `select from outbox.enqueue_many(name => 'reminder_24h', rows => (
         select jsonb_agg(jsonb_build_object('serial_key', 'a:' || n, 'scheduled_at', now() + interval '1 hour'))
         from generate_series(1, 1000) as n
       ))`,
    );
    const due = await addTurn({ serialKey: 'z' });
    expect(await admitAll()).toEqual([due]);
  });
});

describe('keeping and giving up a turn', () => {
  const act = (sql: string, id: string) => bridge.pool.query(sql, [id]);

  it('a row whose job BullMQ lost keeps its turn, and is published without waiting for another', async () => {
    const first = await addTurn();
    await admitAll();
    await bridge.publish();
    await addTurn({ priority: 100 });
    await act('select outbox.unpublish(ids => array[$1::bigint], generations => array[1])', first);

    expect(await admitAll()).toEqual([first]);
    expect(await bridge.publish()).toMatchObject({ picked: 1, published: 1 });
    expect(await readRow(bridge.pool, first)).toMatchObject({ state: 'published', generation: 2, ready: [] });
  });

  it('a row that waits for its next attempt keeps its turn', async () => {
    const first = await addTurn();
    await admitAll();
    await bridge.publish();
    await addTurn({ priority: 100 });
    await act(
      "update outbox.jobs set scheduled_at = clock_timestamp() + interval '4 min', attempt = 1 where id = $1",
      first,
    );
    expect(await admitAll()).toEqual([first]);
  });

  it('a row that is rescheduled gives its turn up, and has one again in its time', async () => {
    const first = await addTurn();
    await admitAll();
    await bridge.publish();
    const second = await addTurn();
    await act("select outbox.reschedule(id => $1, scheduled_at => clock_timestamp() + interval '1 hour')", first);
    expect(await admitAll()).toEqual([second]);
    expect(await readRow(bridge.pool, first)).toMatchObject({ state: 'pending', generation: 2, ready: [2] });

    await act('select outbox.run_now(id => $1)', first);
    expect(await admitAll()).toEqual([second]);
    await end(second, 'completed');
    expect(await admitAll()).toEqual([first]);
    await bridge.publish();
    expect(await readRow(bridge.pool, first)).toMatchObject({ state: 'published', generation: 3 });
  });

  it('a failed row that is redriven waits for its turn', async () => {
    const [first, second] = [await addTurn(), await addTurn()];
    await admitAll();
    await end(first, 'failed');
    await admitAll();
    await act('select outbox.redrive(id => $1)', first);
    expect(await admitAll()).toEqual([second]);
    await end(second, 'completed');
    expect(await admitAll()).toEqual([first]);
  });
});

describe('a bridge that sleeps', () => {
  /** Milliseconds from `since` (an SQL instant) to the publish of the row. */
  async function publishedAfter(pool: Pool, id: string, since: string): Promise<number> {
    return waitFor(
      async () => {
        const { rows } = await pool.query<{ ms: number | null }>(
          `select extract(epoch from published_at - ${since})::float8 * 1000 as ms from outbox.jobs where id = $1`,
          [id],
        );
        const ms = rows[0]?.ms ?? null;
        if (ms === null) throw new Error(`Row ${id} is not published`);
        return ms;
      },
      { intervalMs: 5 },
    );
  }

  it('asks when the next turn is due: of all waiting rows the earliest that is not due yet', async () => {
    expect(await admitNext(bridge.pool)).toEqual({ letGo: 0, nextInMs: undefined });
    await addTurn({ dueInMs: 1 * HOUR });
    await addTurn({ dueInMs: 1 * MINUTE, serialKey: 'crew:2' });
    await addTurn();
    const { letGo, nextInMs } = await admitNext(bridge.pool);
    expect(letGo).toBe(1);
    expect(nextInMs).toBeLessThanOrEqual(1 * MINUTE);
    expect(nextInMs).toBeGreaterThan(55 * SECOND);
  });

  it('looks again soon when another bridge is looking: it has learnt nothing', async () => {
    await addTurn();
    await withTransaction(bridge.otherPool(), async (other) => {
      await other.query('select pg_advisory_xact_lock(122524661739386)');
      const { letGo, nextInMs } = await admitNext(bridge.pool);
      expect(letGo).toBe(0);
      expect(nextInMs).toBeLessThanOrEqual(20);
    });
  });

  it('publishes a row when it falls due, not by the poll and not before', async () => {
    bridge.startLoop(5 * MINUTE);
    const late: number[] = [];
    for (let round = 1; round <= 3; round += 1) {
      const id = await addTurn({ dueInMs: 300, serialKey: `crew:${round}` });
      late.push(await publishedAfter(bridge.pool, id, 'scheduled_at'));
    }
    for (const ms of late) expect(ms).toBeGreaterThanOrEqual(0);
    // The middle one, for a machine that is busy.
    expect(late.sort((a, b) => a - b)[1]).toBeLessThan(150);
  });

  it('publishes the next when a turn ends, not by the poll', async () => {
    const first = await addTurn();
    const second = await addTurn();
    bridge.startLoop(5 * MINUTE);
    await publishedAfter(bridge.pool, first, 'created_at');
    await untilAsleep(bridge.pool);
    await end(first, 'completed');
    const since = `(select finished_at from outbox.jobs where id = ${first})`;
    expect(await publishedAfter(bridge.pool, second, since)).toBeLessThan(1 * SECOND);
    expect(await bridge.queue.getJob(`${second}-1`)).toMatchObject({ queueName: QUEUE });
  });

  /** Connected, and without the lock that tells writers that it looks by itself. */
  async function untilAsleep(pool: Pool): Promise<void> {
    await waitFor(async () => {
      const { rows } = await pool.query<{ awake: boolean }>(
        `select exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory') as awake
         from pg_stat_activity a
         where a.datname = current_database() and a.application_name = 'outbox bridge listen'`,
      );
      expect(rows).toEqual([{ awake: false }]);
    });
  }
});

import { createPool, SECOND, withTransaction } from '@outbox/core';
import { captureLogs, createTestDatabase, startFaultProxy, startOwnPostgres, waitFor } from '@outbox/testing';
import pg from 'pg';
import { addRow } from './bridge.fixture.ts';
import { WakeUp } from './wake-up.ts';

/** A wait that was ended by a notification is over long before this. */
const LONG_MS = 10 * SECOND;

async function setup() {
  const database = await createTestDatabase();
  const { pool, url } = database;
  const { log, lines } = captureLogs();
  const wakeUp = new WakeUp({ url, role: undefined, log });
  const listener = new pg.Client({ connectionString: url });
  const heard: string[] = [];
  listener.on('notification', ({ payload }) => heard.push(payload ?? ''));
  await listener.connect();
  await listener.query('listen outbox_ready');
  return {
    pool,
    url,
    lines,
    wakeUp,
    /** Who waits for notifications in the database, and whether the bridge holds its lock. */
    listenerPids: async () => {
      const { rows } = await pool.query<{ pid: number }>(
        `select pid from pg_stat_activity
         where datname = current_database() and application_name = 'outbox bridge listen'`,
      );
      return rows.map(({ pid }) => pid);
    },
    isAwake: async () => {
      const { rows } = await pool.query<{ awake: boolean }>(
        `select exists (
           select from pg_locks l join pg_stat_activity a using (pid)
           where l.locktype = 'advisory' and l.granted and a.application_name = 'outbox bridge listen'
             and a.datname = current_database()
         ) as awake`,
      );
      return rows[0]?.awake;
    },
    /** Every notification that was sent until now; they arrive in the order of the commits. */
    notifications: async () => {
      await pool.query(`select pg_notify('outbox_ready', 'end')`);
      await waitFor(() => expect(heard.at(-1)).toBe('end'));
      return heard.splice(0).slice(0, -1);
    },
    close: async () => {
      await wakeUp.close();
      await listener.end();
      await database.drop();
    },
  };
}

let bundle: Awaited<ReturnType<typeof setup>>;
beforeEach(async () => {
  bundle = await setup();
});
afterEach(() => bundle.close());

async function msOf(work: Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work;
  return performance.now() - started;
}

describe('a writer', () => {
  it('notifies a bridge that sleeps', async () => {
    const { pool, wakeUp, notifications } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    await addRow(pool);
    expect(await notifications()).toEqual(['']);
  });

  it('does not notify a bridge that is awake', async () => {
    const { pool, wakeUp, isAwake, notifications } = bundle;
    await wakeUp.acquire();
    expect(await isAwake()).toBe(true);
    await addRow(pool);
    expect(await notifications()).toEqual([]);
  });

  it('that is in the middle of its transaction does not keep a bridge from publishing', async () => {
    const { pool, wakeUp, isAwake } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    await withTransaction(pool, async (business) => {
      await business.query(`select pg_advisory_xact_lock_shared(outbox.awake_lock())`);
      expect(await msOf(wakeUp.acquire())).toBeLessThan(1 * SECOND);
      expect(await isAwake()).toBe(false);
    });
    await wakeUp.acquire();
    expect(await isAwake()).toBe(true);
  });
});

it('sees writers who wait for each other because they notify', async () => {
  const server = await startOwnPostgres();
  const pool = createPool({ url: server.url, applicationName: 'writers', max: 4, onError: () => undefined });
  const wakeUp = new WakeUp({ url: server.url, role: 'outbox_bridge', log: captureLogs().log });
  const waitForStandby = async (name: string) => {
    await pool.query(`alter system set synchronous_standby_names = '${name}'`);
    await pool.query('select pg_reload_conf()');
    await waitFor(async () => {
      const { rows } = await pool.query<{ name: string }>(
        `select current_setting('synchronous_standby_names') as name`,
      );
      expect(rows[0]?.name).toBe(name);
    });
  };
  try {
    await wakeUp.release();
    await addRow(pool);
    expect(await wakeUp.isCrowded()).toBe(false);
    // A commit that waits for a standby that is not there keeps the lock of those who notify.
    await waitForStandby('nobody');
    const writers = [addRow(pool), addRow(pool)];
    await waitFor(async () => expect(await wakeUp.isCrowded()).toBe(true));
    await waitForStandby('');
    await Promise.all(writers);
    expect(await wakeUp.isCrowded()).toBe(false);
  } finally {
    await wakeUp.close();
    await pool.end();
    await server.stop();
  }
}, 60_000);

describe('wait', () => {
  it('ends early when a writer commits', async () => {
    const { pool, wakeUp } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    const waited = msOf(wakeUp.wait(LONG_MS));
    await addRow(pool);
    expect(await waited).toBeLessThan(LONG_MS / 2);
  });

  it('does not begin when a writer committed after the release', async () => {
    const { pool, wakeUp, notifications } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    await addRow(pool);
    // Sent to the bridge no later than to us.
    await notifications();
    expect(await msOf(waitFor(() => wakeUp.wait(LONG_MS)))).toBeLessThan(LONG_MS / 2);
  });

  it('ends at the time-out when nobody writes', async () => {
    const { wakeUp } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    // Timers of Node may be a millisecond early.
    expect(await msOf(wakeUp.wait(100))).toBeGreaterThanOrEqual(98);
  });

  it('ends on wake, also on one that came before it', async () => {
    const { wakeUp } = bundle;
    const waited = msOf(wakeUp.wait(LONG_MS));
    wakeUp.wake();
    expect(await waited).toBeLessThan(LONG_MS / 2);
    expect(await msOf(wakeUp.wait(LONG_MS))).toBeLessThan(LONG_MS / 2);
  });
});

describe('a broken connection', () => {
  async function breakIt() {
    const { pool, listenerPids } = bundle;
    const before = await listenerPids();
    await pool.query('select pg_terminate_backend(pid) from unnest($1::int[]) as t (pid)', [before]);
    await waitFor(async () => expect(await listenerPids()).toEqual([]));
    return before;
  }

  it.each(['awake', 'asleep'])('is replaced at the next acquire (broken while %s)', async (state) => {
    const { pool, wakeUp, isAwake, listenerPids } = bundle;
    await wakeUp.acquire();
    if (state === 'asleep') await wakeUp.release();
    const before = await breakIt();
    expect(before).toHaveLength(1);

    // The client hears of its end a moment after the server.
    await waitFor(async () => {
      await wakeUp.acquire();
      expect(await isAwake()).toBe(true);
    });
    expect(await listenerPids()).toHaveLength(1);
    expect(await listenerPids()).not.toEqual(before);

    await wakeUp.release();
    const waited = msOf(wakeUp.wait(LONG_MS));
    await addRow(pool);
    expect(await waited).toBeLessThan(LONG_MS / 2);
  });

  it('is said in the log and costs a wait no more than its time-out', async () => {
    const { wakeUp, lines } = bundle;
    await wakeUp.acquire();
    await wakeUp.release();
    const waited = msOf(wakeUp.wait(200));
    await breakIt();
    expect(await waited).toBeLessThan(LONG_MS / 2);
    await waitFor(() =>
      expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', msg: 'lost the connection that listens' })),
    );
  });
});

it('a connection that went silent is noticed after a wait that heard nothing, and replaced', async () => {
  const { pool, url } = bundle;
  const proxy = await startFaultProxy(url);
  const { log, lines } = captureLogs();
  const wakeUp = new WakeUp({ url: proxy.url, role: undefined, log });
  try {
    await wakeUp.release();
    proxy.silenceOpen();
    await wakeUp.wait(10);
    await wakeUp.release();
    expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', msg: 'lost the connection that listens' }));

    await wakeUp.release();
    const waited = msOf(wakeUp.wait(LONG_MS));
    await addRow(pool);
    expect(await waited).toBeLessThan(LONG_MS / 2);
  } finally {
    await wakeUp.close();
    await proxy.close();
  }
});

it('close leaves no connection behind and may come without any acquire', async () => {
  const { wakeUp, listenerPids, lines } = bundle;
  const idle = new WakeUp({ url: 'postgres://127.0.0.1:1/none', role: undefined, log: captureLogs().log });
  await idle.close();
  await wakeUp.acquire();
  expect(await listenerPids()).toHaveLength(1);
  await wakeUp.close();
  await waitFor(async () => expect(await listenerPids()).toEqual([]));
  expect(lines).toEqual([]);
});

it('without Postgres every call returns, so that polling goes on', async () => {
  const { log, lines } = captureLogs();
  const wakeUp = new WakeUp({ url: 'postgres://127.0.0.1:1/none', role: undefined, log });
  await wakeUp.acquire();
  await wakeUp.release();
  expect(await msOf(wakeUp.wait(50))).toBeLessThan(LONG_MS / 2);
  await wakeUp.close();
  expect(lines.length).toBeGreaterThan(0);
});

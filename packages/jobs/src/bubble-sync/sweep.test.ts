import { randomUUID } from 'node:crypto';
import { createPool, withTransaction, type Pool, type Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { leaveJob, rename, signUp } from './user.fixture.ts';

let database: TestDatabase;
/** What the bridge may do, and no more. */
let bridge: Pool;
beforeEach(async () => {
  database = await createTestDatabase();
  const options = { url: database.url, role: 'outbox_bridge', applicationName: 'sweep', max: 2 };
  bridge = createPool({ ...options, onError: () => undefined });
});
afterEach(async () => {
  await bridge.end();
  await database.drop();
});

/** Runs `work` with no trigger firing, as if the capture had been away. */
function unseen<T>(work: (db: Queryable) => Promise<T>): Promise<T> {
  return withTransaction(database.pool, async (client) => {
    await client.query('set local session_replication_role = replica');
    return work(client);
  });
}

async function sweep(): Promise<unknown> {
  const { rows } = await bridge.query<{ answer: unknown }>('select bubble.sweep() as answer');
  return rows[0]?.answer;
}

interface JobView {
  key: string;
  state: string;
  serial: string | null;
  owner: string | null;
}

async function jobs(): Promise<JobView[]> {
  const { rows } = await database.pool.query<JobView & Record<string, unknown>>(
    `select key, state, serial_key as serial, owner_id as owner from outbox.jobs order by id`,
  );
  return rows;
}

const HEALTHY = { recovered: 0, planned: 0, cancelled: 0, failed: 0, error: null, more: false };
const planned = (count: number) => ({ ...HEALTHY, planned: count, more: true });

const missed = () => unseen((db) => signUp(db));

/** The user's sync is done, and Bubble has it as it stands. */
async function synced(): Promise<string> {
  const userId = await signUp(database.pool);
  await database.pool.query('update public.users set bubble_synced_at = now() where id = $1', [userId]);
  await leaveJob(database.pool, userId, 'completed');
  return userId;
}

const touch = (userId: string) =>
  unseen(async (db) => {
    await rename(db, userId, 'Later');
    await db.query('update public.users set updated_at = clock_timestamp() where id = $1', [userId]);
  });

describe('plans', () => {
  test('a sign-up that was missed, once, as the capture would have', async () => {
    const userId = await missed();
    expect(await sweep()).toEqual(planned(1));
    expect(await jobs()).toEqual([{ key: userId, state: 'pending', serial: `bubble_user:${userId}`, owner: userId }]);
    expect(await sweep()).toEqual(HEALTHY);
  });

  test('a change that was missed', async () => {
    const userId = await synced();
    expect(await sweep()).toEqual(HEALTHY);
    await touch(userId);
    expect(await sweep()).toEqual(planned(1));
    expect(await sweep()).toEqual(HEALTHY);
  });

  test('a change that was missed while a copy of an older state ran', async () => {
    const userId = await signUp(database.pool);
    await leaveJob(database.pool, userId, 'active');
    await touch(userId);
    expect(await sweep()).toEqual(planned(1));
  });

  test('batch after batch', async () => {
    await unseen((db) =>
      db.query(`insert into public.users (email) select n || '@example.com' from generate_series(1, 201) n`),
    );
    expect(await sweep()).toEqual(planned(200));
    expect(await sweep()).toEqual(planned(1));
  });
});

describe('does not plan', () => {
  test.each(['failed', 'cancelled', 'completed'] as const)('a user that had its job: %s', async (state) => {
    const userId = await signUp(database.pool);
    await leaveJob(database.pool, userId, state);
    expect(await sweep()).toEqual(HEALTHY);
  });

  test('a user that has not changed since before the capture was enabled', async () => {
    await unseen((db) =>
      db.query(`insert into public.users (email, updated_at) values ('a@example.com', now() - interval '1 day')`),
    );
    expect(await sweep()).toEqual(HEALTHY);
  });

  test('a user whose jobs may have been pruned', async () => {
    await database.pool.query(`update outbox.captures set enabled_at = now() - interval '1 year'`);
    await unseen((db) =>
      db.query(`insert into public.users (email, updated_at) values ('a@example.com', now() - interval '31 days')`),
    );
    expect(await sweep()).toEqual(HEALTHY);
  });

  test.each([
    ['the rule is disabled', `update outbox.captures set enabled = false where job_name = 'bubble_user_sync'`],
    ['a trigger is dropped', 'drop trigger capture_bubble_users_insert on public.users'],
    ['a trigger is disabled', 'alter table public.users disable trigger capture_bubble_users_update'],
  ])('while a person wants no capture: %s', async (_why, sql) => {
    await missed();
    await database.pool.query(sql);
    expect(await sweep()).toEqual(HEALTHY);
    expect(await jobs()).toEqual([]);
  });
});

describe('cancels', () => {
  test('what is open for a user that is gone', async () => {
    const userId = await signUp(database.pool);
    await unseen((db) => db.query('delete from public.users where id = $1', [userId]));
    expect(await sweep()).toEqual({ ...HEALTHY, cancelled: 1, more: true });
    expect(await jobs()).toMatchObject([{ key: userId, state: 'cancelled' }]);
    expect(await sweep()).toEqual(HEALTHY);
  });

  test('nothing that is locked: it does not wait', async () => {
    const userId = await signUp(database.pool);
    await unseen((db) => db.query('delete from public.users where id = $1', [userId]));
    await withTransaction(database.pool, async (business) => {
      await business.query('select 1 from outbox.jobs for update');
      expect(await sweep()).toEqual(HEALTHY);
    });
  });
});

describe('recovers what a capture set aside', () => {
  const setAside = (userId: string) =>
    database.pool.query(
      `insert into outbox.capture_errors (table_name, job_name, key, sqlstate, message)
       values ('public.users', 'bubble_user_sync', $1, '55P03', 'locked')`,
      [userId],
    );
  const unhealed = async () => {
    const { rows } = await database.pool.query<{ key: string }>(
      'select key from outbox.capture_errors where healed_at is null',
    );
    return rows;
  };

  test('of a user that is there: it is planned', async () => {
    const userId = await synced();
    await setAside(userId);
    expect(await sweep()).toEqual({ ...HEALTHY, recovered: 1, more: true });
    expect(await jobs()).toMatchObject([{ state: 'completed' }, { key: userId, state: 'pending' }]);
    expect(await unhealed()).toEqual([]);
  });

  test('of a user that is gone: what is open is cancelled', async () => {
    const userId = await signUp(database.pool);
    await unseen((db) => db.query('delete from public.users where id = $1', [userId]));
    await setAside(userId);
    await setAside(randomUUID());
    expect(await sweep()).toEqual({ ...HEALTHY, recovered: 2, more: true });
    expect(await jobs()).toMatchObject([{ state: 'cancelled' }]);
    expect(await unhealed()).toEqual([]);
  });

  test('not while a person wants no capture', async () => {
    await database.pool.query('update outbox.captures set enabled = false');
    await setAside(await unseen((db) => signUp(db)));
    expect(await sweep()).toEqual(HEALTHY);
    expect(await unhealed()).toHaveLength(1);
  });
});

test('of two bridges one sweeps', async () => {
  await withTransaction(bridge, async (other) => {
    await other.query('select bubble.sweep()');
    expect(await sweep()).toBeNull();
  });
});

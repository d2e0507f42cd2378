import { enqueue, SECOND, withTransaction, type Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, createTestPrefix, waitFor, type TestDatabase } from '@outbox/testing';
import fc from 'fast-check';
import { admitNext } from './admit.ts';
import { countStates, JOB, openQueues } from './bridge.fixture.ts';
import { PublishLoop } from './publish-loop.ts';

let database: TestDatabase;
let pool: Pool;
beforeEach(async () => {
  database = await createTestDatabase();
  pool = database.pool;
});
afterEach(() => database.drop());

async function add(serialKey: string, { dueInMs = -1_000, priority = 0 } = {}): Promise<string> {
  const scheduledAt = new Date(Date.now() + dueInMs);
  return (await enqueue(pool, JOB, { payload: {}, serialKey, scheduledAt, priority })).id;
}

async function admitted(): Promise<string[]> {
  const { rows } = await pool.query<{ id: string }>('select id from outbox.jobs where admitted order by id');
  return rows.map(({ id }) => id);
}

const end = (id: string, state: string) =>
  pool.query('update outbox.jobs set state = $2, finished_at = now(), admitted = false where id = $1', [id, state]);

it('bridges side by side never admit two of one key, round after round', async () => {
  const keys = ['a', 'b', 'c', 'd', 'e'];
  for (const key of keys) for (let n = 1; n <= 10; n += 1) await add(key);
  for (let round = 1; round <= 10; round += 1) {
    await Promise.all([1, 2, 3, 4].map(() => admitNext(pool)));
    await waitFor(async () => {
      await admitNext(pool);
      expect(await admitted()).toHaveLength(keys.length);
    });
    for (const id of await admitted()) await end(id, 'completed');
  }
  expect(await countStates(pool)).toEqual({ completed: 50 });
});

it.each<[string, (id: string) => Promise<unknown>]>([
  ['completed', (id) => end(id, 'completed')],
  ['skipped', (id) => end(id, 'skipped')],
  ['failed, as when the queue refused it', (id) => end(id, 'failed')],
  ['cancelled', (id) => pool.query("select outbox.cancel_jobs(ids => array[$1::bigint], reason => 'test')", [id])],
  ['deleted', (id) => pool.query('delete from outbox.jobs where id = $1', [id])],
  [
    'rescheduled',
    (id) => pool.query("select outbox.reschedule(id => $1, scheduled_at => now() + interval '1 h')", [id]),
  ],
])('the next one has its turn when the first is %s', async (_title, endIt) => {
  const [first, second] = [await add('k', { dueInMs: -2_000 }), await add('k')];
  await admitNext(pool);
  expect(await admitted()).toEqual([first]);
  await admitNext(pool);
  expect(await admitted()).toEqual([first]);
  await endIt(first);
  await admitNext(pool);
  expect(await admitted()).toEqual([second]);
});

it('a job due in 70 hours does not keep one that is due now waiting', async () => {
  await add('k', { dueInMs: 70 * 3_600 * SECOND, priority: 9 });
  const now = await add('k');
  const { nextInMs } = await admitNext(pool);
  expect(await admitted()).toEqual([now]);
  expect(nextInMs).toBeGreaterThan(69 * 3_600 * SECOND);
});

it('the highest priority has its turn first, then the earliest due', async () => {
  const late = await add('k', { dueInMs: -1_000, priority: 1 });
  const early = await add('k', { dueInMs: -5_000, priority: 1 });
  const urgent = await add('k', { priority: 2 });
  for (const expected of [urgent, early, late]) {
    await admitNext(pool);
    expect(await admitted()).toEqual([expected]);
    await end(expected, 'completed');
  }
});

it('a row that was cancelled while it waited keeps nobody waiting', async () => {
  const [gone, next] = [await add('k', { priority: 5 }), await add('k')];
  await pool.query("select outbox.cancel_jobs(ids => array[$1::bigint], reason => 'test')", [gone]);
  await admitNext(pool);
  await admitNext(pool);
  expect(await admitted()).toEqual([next]);
});

it('a row that BullMQ lost keeps its turn', async () => {
  const [first] = [await add('k', { dueInMs: -2_000 }), await add('k')];
  await admitNext(pool);
  await pool.query("update outbox.jobs set state = 'published' where id = $1", [first]);
  await pool.query('select outbox.unpublish(ids => array[$1::bigint], generations => array[1])', [first]);
  await admitNext(pool);
  expect(await admitted()).toEqual([first]);
  const { rows } = await pool.query('select serial_key from outbox.ready where job_id = $1 and generation = 2', [
    first,
  ]);
  expect(rows).toEqual([{ serial_key: null }]);
});

it('a row that a business transaction has locked is admitted later', async () => {
  const id = await add('k');
  await withTransaction(pool, async (client) => {
    await client.query('select from outbox.jobs where id = $1 for no key update', [id]);
    expect(await admitNext(pool)).toMatchObject({ letGo: 0 });
  });
  expect(await admitNext(pool)).toMatchObject({ letGo: 1 });
});

it('a sleeping bridge wakes at the next due time, not at its next poll', async () => {
  const keys = createTestPrefix();
  const { queueOf, ...queues } = await openQueues(keys.redisUrl, keys.prefix);
  const none = () => undefined;
  const loop = new PublishLoop({
    ...{ pool, queueOf, limit: 100, wakeUp: undefined, pollMs: 60 * SECOND, log: captureLogs().log },
    ...{ heldBy: none, fullBecause: none },
  });
  await add('k', { dueInMs: 600 });
  loop.start();
  await waitFor(async () => expect(await countStates(pool)).toEqual({ published: 1 }), { timeoutMs: 10 * SECOND });
  await loop.stop();
  await queues.close();
  await keys.removeKeys();
});

it('costs next to nothing while a hundred thousand other rows are ready', async () => {
  await pool.query(
    `insert into outbox.ready (job_id, generation, priority, scheduled_at)
     select n, 1, 0, now() from generate_series(1, 100000) n`,
  );
  await pool.query('analyze outbox.ready');
  const before = await pool.query<{ read: number }>(READS);
  await admitNext(pool);
  const { rows } = await pool.query<{ plan: string }>(
    `select indexdef as plan from pg_indexes where indexname = 'ready_in_turn'`,
  );
  expect(rows[0]?.plan).toContain('WHERE (serial_key IS NOT NULL)');
  const after = await pool.query<{ read: number }>(READS);
  expect((after.rows[0]?.read ?? 0) - (before.rows[0]?.read ?? 0)).toBe(0);
});
const READS = `select seq_tup_read::int as read from pg_stat_user_tables where schemaname = 'outbox' and relname = 'ready'`;

it('whatever is added, admitted and ended in whatever order, no key ever has two turns at once', async () => {
  const step = fc.oneof(
    fc.record({ add: fc.constantFrom('a', 'b', 'c'), priority: fc.integer({ min: -2, max: 2 }) }),
    fc.record({ end: fc.nat(), state: fc.constantFrom('completed', 'failed', 'cancelled') }),
    fc.record({ admitBy: fc.integer({ min: 1, max: 3 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 30 }), async (steps) => {
      for (const each of steps) {
        if ('add' in each) await add(each.add, { priority: each.priority });
        else if ('admitBy' in each) await Promise.all(Array.from({ length: each.admitBy }, () => admitNext(pool)));
        else {
          const ids = await admitted();
          const id = ids[each.end % Math.max(1, ids.length)];
          if (id !== undefined) await end(id, each.state);
        }
        const { rows } = await pool.query(
          'select serial_key from outbox.jobs where admitted group by serial_key having count(*) > 1',
        );
        expect(rows).toEqual([]);
      }
      // Nobody waits while the key is free.
      await waitFor(async () => {
        await admitNext(pool);
        const { rows } = await pool.query(
          `select distinct j.serial_key from outbox.jobs j
           where j.finished_at is null
             and not exists (select from outbox.jobs a where a.serial_key = j.serial_key and a.admitted)`,
        );
        expect(rows).toEqual([]);
      });
    }),
    { numRuns: 15 },
  );
});

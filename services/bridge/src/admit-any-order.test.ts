import { enqueue, type Pool } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import fc from 'fast-check';
import { admitNext } from './admit.ts';
import { JOB } from './bridge.fixture.ts';

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

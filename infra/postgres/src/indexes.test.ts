import { createTestDatabase, type TestDatabase } from '@outbox/testing';

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

/** What publishing and claiming a row that holds no key set. */
const SET_ON_THE_WAY = [
  'attempt',
  'interruptions',
  'last_error',
  'locked_by',
  'locked_until',
  'progress',
  'published_at',
  'published_epoch',
  'reason',
  'rerun',
  'run',
  'started_at',
  'state',
];

it('no index of any family covers what publishing and claiming set: these updates stay HOT', async () => {
  const { rows } = await database.pool.query<{ column: string; index: string }>(/* sql */ `
    select a.attname as column, c.relname as index
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_depend d on d.objid = i.indexrelid and d.refobjid = i.indrelid and d.refobjsubid > 0
    join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where i.indrelid = 'outbox.jobs'::regclass`);
  expect(rows).toContainEqual({ column: 'finished_at', index: 'jobs_open' });
  expect(rows.filter(({ column }) => SET_ON_THE_WAY.includes(column))).toEqual([]);
});

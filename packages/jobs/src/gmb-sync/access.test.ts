import { randomUUID } from 'node:crypto';
import { rowsOf, useGmb } from './gmb.fixture.ts';

const gmb = useGmb();

const WORKER = [
  ...['end_locations', 'end_reviews', 'location_progress', 'log_error', 'note_problem', 'record_access_token'],
  ...['record_google_name', 'record_locations', 'record_reviews', 'record_success', 'require_reconnection'],
];
const API = ['begin_worker_run', 'enqueue_sync', 'finish_worker_run', 'queue_diagnostics', 'user_queue'];

/** All that a role may call in the schema gmb: what is not named here is refused. */
const CALLS: Record<string, string[]> = {
  outbox_bridge: ['sweep'],
  outbox_worker: WORKER,
  outbox_api: API,
  service_role: [...API, 'mark_stale_sync_jobs', 'pick_sync_jobs', 'schedule_syncs'].sort(),
  authenticated: [],
  anon: [],
};

test.each(Object.entries(CALLS))('%s may call %j in gmb and nothing else', async (role, functions) => {
  const asked = `
    select p.proname as name
    from pg_proc p
    where p.pronamespace = 'gmb'::regnamespace and p.prorettype <> 'trigger'::regtype
      and has_function_privilege($1, p.oid, 'execute')
    order by p.proname`;
  expect((await rowsOf(gmb.database.pool, asked, [role])).map(({ name }) => name)).toEqual(functions);
});

/** All that a role may do with tables and views of the schema. */
const RELATIONS: Record<string, string[]> = {
  outbox_bridge: [],
  outbox_worker: ['account_marks SELECT', 'account_source SELECT', 'account_tokens SELECT'],
  outbox_api: ['account_source SELECT', 'sync_queue SELECT'],
  service_role: [
    'account_source SELECT',
    ...['DELETE', 'INSERT', 'SELECT', 'UPDATE'].map((right) => `sync_queue ${right}`),
    'sync_worker_runs SELECT',
  ],
  authenticated: ['sync_queue SELECT'],
  anon: [],
};

test.each(Object.entries(RELATIONS))('%s may do with the relations of gmb: %j', async (role, rights) => {
  const asked = `
    select c.relname || ' ' || r.name as right
    from pg_class c
    cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) as r (name)
    where c.relnamespace = 'gmb'::regnamespace and c.relkind in ('r', 'v') and has_table_privilege($1, c.oid, r.name)
    order by 1`;
  expect((await rowsOf(gmb.database.pool, asked, [role])).map(({ right }) => right)).toEqual(rights);
});

const refused = { code: '42501' };

describe('a signed-in user', () => {
  test('sees the syncs of the own accounts, and no others', async () => {
    const { id, account } = await gmb.add({ priority: 10, metadata: { a: 1 } });
    await gmb.add();
    const seen = await gmb.actAs('authenticated', account.userId, (db) => rowsOf(db, 'select * from gmb.sync_queue'));
    expect(seen).toMatchObject([{ id, user_id: account.userId, priority: 10, metadata: { a: 1 } }]);
    const byOther = await gmb.actAs('authenticated', randomUUID(), (db) => rowsOf(db, 'select * from gmb.sync_queue'));
    expect(byOther).toEqual([]);
  });

  test.each([
    `insert into gmb.sync_queue (account_id, sync_type) values (gen_random_uuid(), 'full')`,
    `update gmb.sync_queue set status = 'pending'`,
    'delete from gmb.sync_queue',
    'select * from gmb.pick_sync_jobs(1)',
    'select gmb.mark_stale_sync_jobs(1)',
    'select * from gmb.sync_worker_runs',
    'select * from gmb.account_tokens',
    'select gmb.user_queue(gen_random_uuid())',
    'select gmb.queue_diagnostics()',
  ])('is refused: %s', async (sql) => {
    const { account } = await gmb.add();
    await expect(gmb.actAs('authenticated', account.userId, (db) => db.query(sql))).rejects.toMatchObject(refused);
  });
});

test.each(['select * from gmb.sync_queue', 'select * from gmb.pick_sync_jobs(1)', 'select gmb.queue_diagnostics()'])(
  'nobody who is not signed in may: %s',
  async (sql) => {
    await expect(gmb.actAs('anon', undefined, (db) => db.query(sql))).rejects.toMatchObject(refused);
  },
);

test('the service sees all syncs and all runs, and no token', async () => {
  const first = await gmb.add();
  const second = await gmb.add();
  const seen = await gmb.actAs('service_role', undefined, (db) =>
    rowsOf(db, 'select id from gmb.sync_queue where id = any ($1)', [[first.id, second.id]]),
  );
  expect(seen).toHaveLength(2);
  await gmb.database.pool.query('insert into gmb.sync_worker_runs default values');
  expect(
    await gmb.actAs('service_role', undefined, (db) => rowsOf(db, 'select id from gmb.sync_worker_runs')),
  ).toHaveLength(1);
  const tokens = gmb.actAs('service_role', undefined, (db) => db.query('select * from gmb.account_tokens'));
  await expect(tokens).rejects.toMatchObject(refused);
});

test.each(['oauth_tokens', 'error_logs'])('a user reads nothing of the host’s %s', async (table) => {
  const { account } = await gmb.add();
  const asked = gmb.actAs('authenticated', account.userId, (db) => db.query(`select * from public.${table}`));
  await expect(asked).rejects.toMatchObject(refused);
});

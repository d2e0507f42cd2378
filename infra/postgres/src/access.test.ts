import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const BY_HAND = [
  'cancel_jobs',
  'pause_provider',
  'pause_queue',
  'redrive',
  'reschedule',
  'resolve_effect',
  'resume_provider',
  'resume_queue',
  'run_now',
];
const GATE = [
  'note_provider_answers',
  'note_provider_failure',
  'note_provider_limit',
  'pass_gate',
  'release_probe',
  'take_turns',
];
const ENQUEUE = ['cancel', 'cancel_many', 'enqueue', 'enqueue_many'];
const IDS = ['awake_lock', 'job_id', 'job_uuid', 'uuid_or_null'];

/** All that a role may call in the schema outbox: what is not named here is refused. */
const ALLOWED: Record<string, string[]> = {
  outbox_bridge: [...IDS, 'unpublish'],
  outbox_worker: [...ENQUEUE, ...GATE, ...IDS, 'new_run'],
  outbox_api: [...BY_HAND, ...ENQUEUE, ...IDS],
  service_role: [...BY_HAND, ...ENQUEUE, 'job_id', 'job_uuid', 'uuid_or_null'],
  authenticated: ['job_uuid', 'request_user', 'uuid_or_null'],
  anon: [],
};

test.each(Object.entries(ALLOWED))('%s may call %j and nothing else', async (role, functions) => {
  const asked = /* sql */ `
    select p.proname as name
    from pg_proc p
    where p.pronamespace = 'outbox'::regnamespace and p.prorettype <> 'trigger'::regtype
      and has_function_privilege($1, p.oid, 'execute')
    order by p.proname`;
  const names = (await rowsOf(rows.database.pool, asked, [role])).map(({ name }) => name);
  expect(names).toEqual([...functions].sort());
});

test.each([
  ['outbox_api', 'select outbox.resume_after_restore(counter => 1)'],
  ['outbox_worker', 'select outbox.run_now(id => 1)'],
  ['outbox_bridge', 'select outbox.redrive(id => 1)'],
  ['outbox_api', `insert into outbox.jobs (name, queue, scheduled_at, due_at) values ('x', 'x', now(), now())`],
  ['outbox_api', 'update outbox.queues set paused_at = null'],
  ['outbox_api', 'delete from outbox.audit'],
  ['outbox_worker', `update outbox.breakers set state = 'closed'`],
  ['outbox_worker', 'update outbox.providers set requests_per_minute = 1'],
  ['anon', 'select outbox.cancel_jobs(ids => array[1], reason => null)'],
  ['authenticated', 'select outbox.redrive(id => 1)'],
])('%s is refused: %s', async (role, sql) => {
  const client = await rows.begin();
  await client.query(`set local role ${role}`);
  await expect(client.query(sql)).rejects.toMatchObject({ code: '42501' });
});

test('what the API does to a job by hand it does without any right to write the tables', async () => {
  const { id } = await rows.add(await rows.addType(), {}, 'claim', 'failed');
  const client = await rows.begin();
  await client.query('set local role outbox_api');
  await client.query('select outbox.redrive(id => $1)', [id]);
  await client.query('select outbox.run_now(id => $1)', [id]);
  await client.query(`select outbox.cancel_jobs(ids => array[$1::bigint], reason => 'r')`, [id]);
  await client.query('commit');
  expect(await rows.read(id)).toMatchObject({ state: 'cancelled', generation: 3 });
});

import { startGoliothSimulator, type GoliothSimulator } from '@outbox/simulators';
import { migrate } from '@outbox/postgres';
import {
  createTestDatabase,
  createTestPrefix,
  startService,
  waitFor,
  type RunningService,
  type TestDatabase,
  type TestPrefix,
} from '@outbox/testing';
import { Redis } from 'ioredis';

const USER = '00000000-0000-4000-8000-000000000001';
const INTEGRATION = '00000000-0000-4000-8000-0000000000a1';
const KEY = 'key-of-plant';
const PROJECT = 'plant';

/** Calls are given up after so long, and attempts follow quickly. */
const TIMEOUT_MS = 500;
const BACKOFF = '100 ms';

type Backend = 'redis' | 'postgres';

interface World {
  kind: Backend;
  db: TestDatabase;
  prefix: TestPrefix;
  golioth: GoliothSimulator;
  services: RunningService[];
}

async function createWorld(kind: Backend): Promise<World> {
  const db = await createTestDatabase();
  if (kind === 'postgres') {
    await migrate({ databaseUrl: db.url, instance: 'test', backend: kind, timings: 'production', host: true });
  }
  await db.pool.query('update outbox.job_types set operator_backoff = $1', [BACKOFF]);
  await db.pool.query('insert into auth.users (id) values ($1)', [USER]);
  const prefix = createTestPrefix();
  const golioth = await startGoliothSimulator();
  const env = {
    DATABASE_URL: db.url,
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: kind,
    REDIS_URL: kind === 'redis' ? prefix.redisUrl : '',
    QUEUE_PREFIX: prefix.prefix,
    GOLIOTH_SIMULATOR_URL: golioth.url,
    GOLIOTH_TIMEOUT_MS: String(TIMEOUT_MS),
  };
  const start = (name: 'bridge' | 'worker') => startService(name, { ...env, DATABASE_ROLE: `outbox_${name}` });
  return { kind, db, prefix, golioth, services: await Promise.all([start('bridge'), start('worker')]) };
}

async function closeWorld({ services, golioth, db, prefix }: World): Promise<void> {
  await Promise.all(services.map((service) => service.kill()));
  await golioth.close();
  await db.drop();
  await prefix.removeKeys();
}

let world: World;

async function sql(text: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await world.db.pool.query<Record<string, unknown>>(text, values)).rows;
}

/** The integration of a project with two devices, as every test begins. */
async function prepareIntegration(): Promise<void> {
  await sql('delete from public.integrations');
  await sql(
    `insert into public.integrations (id, user_id, name, project_id, api_key) values ($1, $2, 'Plant', $3, $4)`,
    [INTEGRATION, USER, PROJECT, KEY],
  );
  world.golioth.addProject({ id: PROJECT, apiKey: KEY });
  for (const id of ['d1', 'd2']) world.golioth.setDevice(PROJECT, { id, name: `sensor ${id}` });
}

/** A schedule for every minute, whose next slot is in `seconds`. */
async function insertSchedule(seconds: number, everyMinutes = 1): Promise<string> {
  const [schedule] = await sql(
    `insert into public.auto_sync_schedules (integration_id, frequency_minutes, created_at)
     values ($1, $2::int, date_trunc('second', now()) + $3 * interval '1 second' - $2::int * interval '1 minute') returning id`,
    [INTEGRATION, everyMinutes, seconds],
  );
  return String(schedule?.id);
}

const devices = () => sql(`select external_id as id, missing_since is not null as missing from devices order by 1`);
const jobsOf = (key: string) => sql('select state, attempt, reason from outbox.jobs where key = $1 order by id', [key]);

async function untilJobs(key: string, expected: Record<string, unknown>[], timeoutMs = 20_000): Promise<void> {
  await waitFor(async () => expect(await jobsOf(key)).toMatchObject(expected), { timeoutMs });
}

/** Jobs of the queue that BullMQ holds back until later. */
async function delayedInBullMQ(): Promise<string[]> {
  const redis = new Redis(world.prefix.redisUrl);
  try {
    return await redis.zrange(`{${world.prefix.prefix}:golioth-sync}:golioth-sync:delayed`, 0, -1);
  } finally {
    redis.disconnect();
  }
}

/** In epoch seconds. */
const nextRun = async (scheduleId: string) => {
  const [row] = await sql(
    'select extract(epoch from next_run_at)::int as at from public.auto_sync_schedules where id = $1',
    [scheduleId],
  );
  return Number(row?.at);
};

async function runsAsPlanned(): Promise<void> {
  const scheduleId = await insertSchedule(3);
  const slot = await nextRun(scheduleId);
  await untilJobs(scheduleId, [{ state: 'completed' }, { attempt: 0 }]);

  expect(await devices()).toEqual([
    { id: 'd1', missing: false },
    { id: 'd2', missing: false },
  ]);
  expect(
    await sql(
      `select last_run_at >= to_timestamp($2) as "notEarly", next_run_at = to_timestamp($2 + 60) as "onSlot",
         (select i.status = 'active' and i.last_error is null and i.last_synced_at >= s.last_run_at
          from public.integrations i where i.id = s.integration_id) as well,
         (select j.scheduled_at = s.next_run_at from outbox.jobs j where j.key = s.id::text and j.finished_at is null) as planned
       from public.auto_sync_schedules s where s.id = $1`,
      [scheduleId, slot],
    ),
  ).toEqual([{ notEarly: true, onSlot: true, well: true, planned: true }]);
}

describe('on the postgres backend', () => {
  beforeAll(async () => void (world = await createWorld('postgres')), 60_000);
  afterAll(() => closeWorld(world));

  it('a schedule syncs the devices of its integration at its slot, and plans the next one', async () => {
    await prepareIntegration();
    await runsAsPlanned();
  }, 30_000);
});

describe('on the redis backend', () => {
  beforeAll(async () => void (world = await createWorld('redis')), 60_000);
  beforeEach(prepareIntegration);
  afterAll(() => closeWorld(world));

  it('a schedule syncs the devices of its integration at its slot, and plans the next one', runsAsPlanned, 30_000);

  it('what is gone at Golioth is marked as missing by the next run', async () => {
    const scheduleId = await insertSchedule(1);
    await untilJobs(scheduleId, [{ state: 'completed' }, {}]);
    world.golioth.removeDevice(PROJECT, 'd1');
    await sql('select golioth.run_now($1)', [scheduleId]);
    await untilJobs(scheduleId, [{ state: 'completed' }, { state: 'completed' }, {}]);
    expect(await devices()).toEqual([
      { id: 'd1', missing: true },
      { id: 'd2', missing: false },
    ]);
  }, 30_000);

  it.each([
    ['500', { kind: 'status', status: 500 }, 2],
    ['a connection that breaks', { kind: 'drop-before' }, 2],
    ['an answer that comes too late', { kind: 'delay', delayMs: 4 * TIMEOUT_MS }, 2],
    ['a page of HTML', { kind: 'html' }, 2],
    ['429, which spends no attempt', { kind: 'status', status: 429, retryAfter: '1' }, 1],
  ] as const)(
    '%s: a later run of the same job makes up for it',
    async (_what, fault, attempt) => {
      world.golioth.fault(fault);
      const [job] = await sql('select outbox.job_id(golioth.run_now($1)) as id', [INTEGRATION]);
      const ended = 'select state, attempt from outbox.jobs where id = $1';
      await waitFor(async () => expect(await sql(ended, [job?.id])).toEqual([{ state: 'completed', attempt }]), {
        timeoutMs: 20_000,
      });
      expect(await devices()).toHaveLength(2);
      expect(await sql('select status, last_error from public.integrations')).toEqual([
        { status: 'active', last_error: null },
      ]);
    },
    30_000,
  );

  it('a refused key fails at once, shows on the integration and stays out of every log; the next slot is planned all the same', async () => {
    await sql(`update public.integrations set api_key = 'stolen-key'`);
    const scheduleId = await insertSchedule(1, 5);
    await untilJobs(scheduleId, [{ state: 'failed', attempt: 1 }, { attempt: 0 }]);
    expect(await sql('select status, last_error from public.integrations')).toEqual([
      { status: 'error', last_error: expect.stringContaining('refuses the API key') as string },
    ]);
    const lines = () => world.services.flatMap(({ stdout, stderr }) => [...stdout, ...stderr]).join('\n');
    await waitFor(() => expect(lines()).toContain('golioth_401'));
    expect(lines()).not.toContain('stolen-key');
    expect(lines()).not.toContain(KEY);
  }, 30_000);

  it('a schedule that is edited while its job waits runs at its new slot', async () => {
    const scheduleId = await insertSchedule(600, 60);
    await sql(
      `update public.auto_sync_schedules
       set time_window_start = clock.now + interval '2 seconds', time_window_end = clock.now + interval '1 hour'
       from (select date_trunc('second', now() at time zone 'UTC')::time as now) clock
       where id = $1`,
      [scheduleId],
    );
    const slot = await nextRun(scheduleId);
    await untilJobs(scheduleId, [{ state: 'completed' }, { attempt: 0 }]);
    const started =
      'select floor(extract(epoch from last_run_at))::int as at from public.auto_sync_schedules where id = $1';
    expect(Number((await sql(started, [scheduleId]))[0]?.at)).toBeGreaterThanOrEqual(slot);
    expect(await nextRun(scheduleId)).toBeGreaterThan(slot);
  }, 30_000);

  it('disabled, a job that waits for its second attempt is out of BullMQ within a second, and nothing is planned', async () => {
    await sql(`update outbox.job_types set operator_backoff = '1 hour'`);
    world.golioth.fault({ kind: 'status', status: 503 });
    const scheduleId = await insertSchedule(1, 60);
    await untilJobs(scheduleId, [{ state: 'published', attempt: 1 }, { attempt: 0 }]);
    await sql('update outbox.job_types set operator_backoff = $1', [BACKOFF]);
    await waitFor(async () => expect(await delayedInBullMQ()).toHaveLength(1));

    await sql('update public.auto_sync_schedules set enabled = false where id = $1', [scheduleId]);
    const cancelled = { state: 'cancelled', reason: 'schedule_not_enabled' };
    expect(await jobsOf(scheduleId)).toMatchObject([cancelled, cancelled]);
    await waitFor(async () => expect(await delayedInBullMQ()).toEqual([]), { timeoutMs: 1_000 });
  }, 30_000);

  it('disabled, a run that is under way ends without reading on; enabled again, it is planned again', async () => {
    world.golioth.fault({ kind: 'delay', delayMs: TIMEOUT_MS - 100 });
    const scheduleId = await insertSchedule(1, 60);
    await untilJobs(scheduleId, [{ state: 'active' }, { attempt: 0 }]);
    await sql('update public.auto_sync_schedules set enabled = false where id = $1', [scheduleId]);
    await untilJobs(scheduleId, [{ state: 'cancelled' }, { state: 'cancelled' }]);
    await sql('update public.auto_sync_schedules set enabled = true where id = $1', [scheduleId]);
    await untilJobs(scheduleId, [{ state: 'cancelled' }, { state: 'cancelled' }, { state: 'pending' }]);
  }, 30_000);

  it('run now runs the job that waits, and its slot stays planned', async () => {
    const scheduleId = await insertSchedule(600, 60);
    const slot = await nextRun(scheduleId);
    await sql('select golioth.run_now($1)', [scheduleId]);
    await untilJobs(scheduleId, [{ state: 'completed' }, { attempt: 0 }]);
    expect(await nextRun(scheduleId)).toBe(slot);
    const waiting = 'select extract(epoch from scheduled_at)::int as at from outbox.jobs where key = $1 and holds_key';
    expect(await sql(waiting, [scheduleId])).toEqual([{ at: slot }]);
  }, 30_000);
});

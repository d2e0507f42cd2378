import { migrate } from '@outbox/postgres';
import { startTwilioSimulator, type TwilioSimulator } from '@outbox/simulators';
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

const ORGANIZER = '00000000-0000-4000-8000-000000000001';
const CREW = '00000000-0000-4000-8000-0000000000c0';

/** Longest a crash of a worker may keep a job, at default settings. */
const RESCUE_WITHIN_MS = 40_000;

type Backend = 'redis' | 'postgres';

interface World {
  kind: Backend;
  db: TestDatabase;
  prefix: TestPrefix;
  sms: TwilioSimulator;
  env: Record<string, string>;
}

let world: World;
const services: RunningService[] = [];

async function prepareWorld(kind: Backend): Promise<void> {
  const db = await createTestDatabase();
  if (kind === 'postgres') {
    await migrate({ databaseUrl: db.url, instance: 'test', backend: kind, timings: 'production', host: true });
  }
  const prefix = createTestPrefix();
  const sms = await startTwilioSimulator();
  const env = {
    DATABASE_URL: db.url,
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: kind,
    REDIS_URL: kind === 'redis' ? prefix.redisUrl : '',
    QUEUE_PREFIX: prefix.prefix,
    SMS_SIMULATOR_URL: sms.url,
  };
  world = { kind, db, prefix, sms, env };
  await db.pool.query("update outbox.job_types set operator_delay = '300 ms'");
}

afterEach(async () => {
  await Promise.all(services.splice(0).map((service) => service.kill('SIGKILL')));
  await world.sms.close();
  await world.db.drop();
  await world.prefix.removeKeys();
});

async function start(name: 'bridge' | 'worker', env: Record<string, string> = {}): Promise<RunningService> {
  const service = await startService(name, { ...world.env, DATABASE_ROLE: `outbox_${name}`, ...env });
  services.push(service);
  return service;
}

/** An organizer and a crew of `size`; member n has the phone number +1555555010n. */
async function prepareCrew(size: number): Promise<void> {
  const { pool } = world.db;
  await pool.query('insert into auth.users (id) values ($1)', [ORGANIZER]);
  await pool.query("insert into profiles (id, full_name) values ($1, 'Maya')", [ORGANIZER]);
  await pool.query("insert into crews (id, owner_id, name) values ($1, $2, 'Climbing')", [CREW, ORGANIZER]);
  await pool.query(
    `with members as (
       insert into contacts (owner_id, name, phone)
       select $1, 'Member ' || n, '+1555555010' || n from generate_series(1, $2::int) n
       returning id
     )
     insert into crew_members (crew_id, contact_id) select $3, id from members`,
    [ORGANIZER, size, CREW],
  );
}

async function insertAutoSync(): Promise<string> {
  const { rows } = await world.db.pool.query<{ id: string }>(
    "insert into auto_syncs (organizer_id, crew_id, event_name) values ($1, $2, 'Friday') returning id",
    [ORGANIZER, CREW],
  );
  return rows[0]?.id ?? '';
}

interface JobQueueRow {
  job_type: string;
  status: string;
  error_message: string | null;
}

async function jobQueue(): Promise<JobQueueRow[]> {
  const { rows } = await world.db.pool.query<JobQueueRow>(
    'select job_type, status, error_message from reminders.job_queue order by created_at',
  );
  return rows;
}

async function untilPaused(timeoutMs: number): Promise<void> {
  await waitFor(
    async () => {
      expect(await jobQueue()).toEqual([
        { job_type: 'reminder_24h', status: 'processed', error_message: null },
        { job_type: 'pause_check_48h', status: 'processed', error_message: null },
      ]);
    },
    { timeoutMs },
  );
  const { rows } = await world.db.pool.query('select status::text, paused_at is not null as dated from auto_syncs');
  expect(rows).toEqual([{ status: 'paused', dated: true }]);
}

const numbersTexted = () =>
  world.sms
    .messages()
    .map(({ to }) => to)
    .sort();

/** Delayed jobs that BullMQ has in a queue. */
async function delayedInBullMQ(queueName: string): Promise<number> {
  if (world.kind === 'postgres') {
    const { rows } = await world.db.pool.query<{ count: number }>(
      "select count(*)::int from bullmq.job where queue = $1 and state = 'delayed'",
      [queueName],
    );
    return rows[0]?.count ?? 0;
  }
  const redis = new Redis(world.prefix.redisUrl);
  try {
    return await redis.zcard(`{${world.prefix.prefix}:${queueName}}:${queueName}:delayed`);
  } finally {
    redis.disconnect();
  }
}

describe.each(['redis', 'postgres'] as const)('on the %s backend', (kind) => {
  beforeEach(() => prepareWorld(kind));

  it('an inserted auto sync texts exactly those who have not answered, once, and is paused; its own write cancels nothing', async () => {
    await prepareCrew(4);
    await Promise.all([start('bridge'), start('worker')]);
    const autoSyncId = await insertAutoSync();
    await world.db.pool.query(
      "insert into auto_sync_responses (auto_sync_id, contact_id) select $1, id from contacts where phone like '%4'",
      [autoSyncId],
    );

    await untilPaused(15_000);
    expect(numbersTexted()).toEqual(['+15555550101', '+15555550102', '+15555550103']);
    const { rows } = await world.db.pool.query(
      `select count(*)::int as messages, count(distinct provider_sid)::int as texts, bool_and(message_type = 'reminder') as kind
     from auto_sync_messages`,
    );
    expect(rows).toEqual([{ messages: 3, texts: 3, kind: true }]);
  });

  it('a rolled-back insert leaves no job and texts nobody; the next committed one does', async () => {
    await prepareCrew(1);
    await Promise.all([start('bridge'), start('worker')]);
    const client = await world.db.pool.connect();
    await client.query('begin');
    await client.query("insert into auto_syncs (organizer_id, crew_id, event_name) values ($1, $2, 'Never')", [
      ORGANIZER,
      CREW,
    ]);
    await client.query('rollback');
    client.release();
    await insertAutoSync();

    await untilPaused(15_000);
    expect(numbersTexted()).toEqual(['+15555550101']);
  });

  it("a killed worker's job is run by another within 40 s, and nobody is texted twice", async () => {
    await prepareCrew(4);
    // Default settings once; the other backend need not be waited for as long.
    const rescue: Record<string, string> = kind === 'redis' ? {} : { LEASE: '2s', STALLED_INTERVAL: '1s' };
    const [, first] = await Promise.all([start('bridge'), start('worker', rescue)]);
    // The third text is taken, its answer never comes: the worker is killed in the middle of a call that was carried out.
    for (const phone of ['+15555550101', '+15555550102', '+15555550103', '+15555550104']) {
      world.sms.fault({ kind: 'delay', delayMs: 300, to: phone });
    }
    await insertAutoSync();
    await waitFor(() => expect(world.sms.messages()).toHaveLength(3), { timeoutMs: 10_000, intervalMs: 1 });
    await first.kill('SIGKILL');
    const killedAt = Date.now();
    await start('worker', rescue);

    await waitFor(
      async () => {
        const { rows } = await world.db.pool.query(
          "select from outbox.jobs where name = 'reminder_24h' and interruptions = 1",
        );
        expect(rows).toHaveLength(1);
      },
      { timeoutMs: RESCUE_WITHIN_MS },
    );
    expect(Date.now() - killedAt).toBeLessThan(RESCUE_WITHIN_MS);
    await untilPaused(RESCUE_WITHIN_MS);
    expect(numbersTexted()).toEqual(['+15555550101', '+15555550102', '+15555550103', '+15555550104']);
  }, 100_000);

  it('a worker that is asked to stop finishes its job; another takes what is left', async () => {
    await prepareCrew(2);
    const [, first] = await Promise.all([start('bridge'), start('worker')]);
    // Whichever is texted first: the order is nobody's promise.
    for (const to of ['+15555550101', '+15555550102']) world.sms.fault({ kind: 'delay', delayMs: 500, to });
    await insertAutoSync();
    await waitFor(() => expect(world.sms.messages()).toHaveLength(1), { timeoutMs: 10_000 });

    expect(await first.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(await jobQueue()).toContainEqual({ job_type: 'reminder_24h', status: 'processed', error_message: null });
    await start('worker');
    await untilPaused(15_000);
    expect(numbersTexted()).toEqual(['+15555550101', '+15555550102']);
  });

  it('a paused auto sync has no open job a second later; a resumed one is planned again; a deleted one has none', async () => {
    const { pool } = world.db;
    await pool.query("update outbox.job_types set operator_delay = '1 hour'");
    await prepareCrew(1);
    await start('bridge');
    const autoSyncId = await insertAutoSync();
    await waitFor(async () => expect(await delayedInBullMQ('reminders')).toBe(1));

    await pool.query("update auto_syncs set status = 'paused' where id = $1", [autoSyncId]);
    expect(await jobQueue()).toEqual([
      { job_type: 'reminder_24h', status: 'skipped', error_message: 'auto_sync_not_running' },
    ]);
    await waitFor(async () => expect(await delayedInBullMQ('reminders')).toBe(0), { timeoutMs: 1_000 });

    await pool.query("update auto_syncs set status = 'running' where id = $1", [autoSyncId]);
    await waitFor(async () => expect(await delayedInBullMQ('reminders')).toBe(1));
    const { rows } = await pool.query(
      `select j.scheduled_at = s.created_at + interval '1 hour' as "onTime"
     from reminders.job_queue j join auto_syncs s on s.id = j.sync_id where j.status = 'pending'`,
    );
    expect(rows).toEqual([{ onTime: true }]);

    await pool.query('delete from auto_syncs where id = $1', [autoSyncId]);
    await waitFor(async () => expect(await delayedInBullMQ('reminders')).toBe(0), { timeoutMs: 1_000 });
    const { rows: left } = await pool.query(
      'select count(*)::int as open from outbox.jobs where finished_at is null or owner_id is not null',
    );
    expect(left).toEqual([{ open: 0 }]);
  });
});

// The effect ledger decides this, in Postgres, whatever the queue backend; it waits for the settle time of a call.
describe('on the redis backend only', () => {
  beforeEach(() => prepareWorld('redis'));

  it('pausing stops a reminder that is just texting: who was not texted yet is not', async () => {
    await prepareCrew(3);
    await Promise.all([start('bridge'), start('worker')]);
    for (const phone of ['+15555550101', '+15555550102', '+15555550103']) {
      world.sms.fault({ kind: 'delay', delayMs: 600, to: phone });
    }
    const autoSyncId = await insertAutoSync();
    await waitFor(() => expect(world.sms.messages()).toHaveLength(1), { timeoutMs: 10_000, intervalMs: 1 });
    await world.db.pool.query("update auto_syncs set status = 'paused' where id = $1", [autoSyncId]);

    // The first text was under way when the pause committed; the next one's start finds the request and gives way.
    await waitFor(
      async () => {
        const { rows } = await world.db.pool.query('select state from outbox.jobs where finished_at is null');
        expect(rows).toEqual([]);
      },
      { timeoutMs: 40_000 },
    );
    expect(numbersTexted()).toHaveLength(1);
  }, 60_000);
});

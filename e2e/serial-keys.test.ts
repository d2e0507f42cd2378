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
import { insertAutoSyncs } from './auto-syncs.fixture.ts';

const SERIAL_KEYS = 3;
const ROWS = 15;

/** A text takes so long: without turns, jobs of one key would overlap. */
const TEXT_TAKES_MS = 300;

/** A killed worker's jobs are rescued after a lease this short. */
const RESCUE = { LEASE: '2s', STALLED_INTERVAL: '1s' };

let db: TestDatabase;
let prefix: TestPrefix;
let sms: TwilioSimulator;
const services: RunningService[] = [];

beforeEach(async () => {
  [db, sms] = await Promise.all([createTestDatabase(), startTwilioSimulator()]);
  prefix = createTestPrefix();
});

afterEach(async () => {
  await Promise.all(services.splice(0).map((service) => service.kill('SIGKILL')));
  await sms.close();
  await db.drop();
  await prefix.removeKeys();
});

async function start(name: 'bridge' | 'worker'): Promise<RunningService> {
  const service = await startService(name, {
    DATABASE_URL: db.url,
    DATABASE_ROLE: `outbox_${name}`,
    OUTBOX_INSTANCE: 'test',
    REDIS_URL: prefix.redisUrl,
    QUEUE_PREFIX: prefix.prefix,
    SMS_SIMULATOR_URL: sms.url,
    ...(name === 'worker' ? RESCUE : {}),
  });
  services.push(service);
  return service;
}

const phoneOf = (n: number) => `+1555555${String(n).padStart(4, '0')}`;

/** Auto syncs with one member each, every fifth one paused; no job of the catalogue is serial, so we plan them ourselves. */
async function insertSerialReminders(): Promise<void> {
  await db.pool.query('alter table auto_syncs disable trigger on_auto_sync_created');
  await insertAutoSyncs(db.pool, ROWS);
  await db.pool.query("update auto_syncs set status = 'paused' where substr(event_name, 7)::int % 5 = 0");
  await db.pool.query(
    `select from outbox.enqueue_many(name => 'reminder_24h', rows => (
       select jsonb_agg(jsonb_build_object(
         'key', id, 'payload', jsonb_build_object('autoSyncId', id), 'scheduled_at', now(),
         'serial_key', 'turn:' || substr(event_name, 7)::int % $1::int
       ))
       from auto_syncs
     ))`,
    [SERIAL_KEYS],
  );
}

async function countStates(): Promise<Record<string, number>> {
  const { rows } = await db.pool.query<{ state: string; count: number }>(
    "select state, count(*)::int from outbox.jobs where name = 'reminder_24h' group by state",
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

/** Pairs of attempts of different rows that ran at the same time. */
async function overlaps(): Promise<{ ofOneKey: number; ofTwoKeys: number }> {
  const { rows } = await db.pool.query<{ ofOneKey: number; ofTwoKeys: number }>(
    `with runs as (
       select a.job_id, j.serial_key, a.started_at, a.finished_at
       from outbox.attempts a join outbox.jobs j on j.id = a.job_id
       where j.serial_key is not null
     )
     select
       count(*) filter (where a.serial_key = b.serial_key)::int as "ofOneKey",
       count(*) filter (where a.serial_key <> b.serial_key)::int as "ofTwoKeys"
     from runs a
     join runs b on a.job_id < b.job_id and a.started_at < b.finished_at and b.started_at < a.finished_at`,
  );
  return rows[0] ?? { ofOneKey: NaN, ofTwoKeys: NaN };
}

it('jobs of one serial key never run at the same time, others do, and all end, though a worker is killed', async () => {
  for (let n = 1; n <= ROWS; n += 1) sms.fault({ kind: 'delay', delayMs: TEXT_TAKES_MS, to: phoneOf(n) });
  // It would cancel the reminders of what is paused before a worker can skip them.
  await db.pool.query('drop function reminders.sweep');
  const [, , doomed] = await Promise.all([start('bridge'), start('bridge'), start('worker')]);
  await insertSerialReminders();
  await waitFor(() => expect(sms.messages().length).toBeGreaterThanOrEqual(SERIAL_KEYS + 1), {
    timeoutMs: 20_000,
    intervalMs: 1,
  });
  await doomed.kill('SIGKILL');
  expect((await countStates()).active).toBeGreaterThan(0);
  await Promise.all([start('worker'), start('worker')]);

  await waitFor(async () => expect(await countStates()).toEqual({ completed: 12, skipped: 3 }), {
    timeoutMs: 80_000,
    intervalMs: 100,
  });
  const { rows } = await db.pool.query("select from outbox.attempts where outcome = 'interrupted'");
  expect(rows.length).toBeGreaterThan(0);
  const { ofOneKey, ofTwoKeys } = await overlaps();
  expect(ofOneKey).toBe(0);
  expect(ofTwoKeys).toBeGreaterThan(0);
  const texted = sms.messages().map(({ to }) => to);
  expect(texted).toHaveLength(12);
  expect(new Set(texted).size).toBe(12);
}, 120_000);

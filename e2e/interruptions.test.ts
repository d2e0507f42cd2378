import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { freePort } from '@outbox/local';
import { startTwilioSimulator, type TwilioSimulator } from '@outbox/simulators';
import {
  createTestDatabase,
  createTestPrefix,
  startFaultProxy,
  startService,
  waitFor,
  type FaultProxy,
  type RunningService,
  type TestDatabase,
  type TestPrefix,
} from '@outbox/testing';

interface World {
  db: TestDatabase;
  /** Stands between the services and Postgres, never between it and the test. */
  proxy: FaultProxy;
  prefix: TestPrefix;
  sms: TwilioSimulator;
  services: RunningService[];
}

let world: World;

beforeEach(async () => {
  const db = await createTestDatabase();
  const proxy = await startFaultProxy(db.url);
  world = { db, proxy, prefix: createTestPrefix(), sms: await startTwilioSimulator(), services: [] };
  await db.pool.query('create sequence test_phone');
  await planReminders('0 s');
});

afterEach(async () => {
  await Promise.all(world.services.map((service) => service.kill('SIGKILL')));
  await world.proxy.close();
  await world.sms.close();
  await world.db.drop();
  await world.prefix.removeKeys();
});

/** Reminders are due so long after the auto sync began; pause checks stay in the future. */
async function planReminders(delay: string): Promise<void> {
  await world.db.pool.query("update outbox.job_types set operator_delay = $1 where name = 'reminder_24h'", [delay]);
}

async function start(name: 'bridge' | 'worker', env: Record<string, string> = {}): Promise<RunningService> {
  const service = await startService(name, {
    DATABASE_URL: world.proxy.url,
    DATABASE_ROLE: `outbox_${name}`,
    OUTBOX_INSTANCE: 'test',
    REDIS_URL: world.prefix.redisUrl,
    QUEUE_PREFIX: world.prefix.prefix,
    SMS_SIMULATOR_URL: world.sms.url,
    ...env,
  });
  world.services.push(service);
  return service;
}

/** Each auto sync has a crew of its own with one member: one reminder, one text, to a number that no other has. */
async function insertAutoSyncs(count: number): Promise<void> {
  await world.db.pool.query(
    `with organizer as (
       insert into auth.users default values returning id
     ), profile as (
       insert into profiles (id) select id from organizer returning id
     ), members as (
       select p.id as owner, gen_random_uuid() as crew, gen_random_uuid() as contact, n
       from profile p, generate_series(1, $1::int) n
     ), crew as (
       insert into crews (id, owner_id, name) select crew, owner, 'Crew ' || n from members
     ), contact as (
       insert into contacts (id, owner_id, name, phone)
       select contact, owner, 'Member ' || n, '+1555' || lpad(nextval('test_phone')::text, 7, '0') from members
     ), member as (
       insert into crew_members (crew_id, contact_id) select crew, contact from members
     )
     insert into auto_syncs (organizer_id, crew_id, event_name) select owner, crew, 'Event ' || n from members`,
    [count],
  );
}

interface ReminderView {
  state: string;
  attempt: number;
  interruptions: number;
  /** How its runs ended, in order. */
  runs: string[];
}

async function reminders(): Promise<ReminderView[]> {
  const { rows } = await world.db.pool.query<ReminderView>(
    `select
       state, attempt, interruptions,
       array(select a.outcome::text from outbox.attempts a where a.job_id = j.id order by a.run) as runs
     from outbox.jobs j
     where name = 'reminder_24h'
     order by id`,
  );
  return rows;
}

/** So many reminders are over. */
function untilCompleted(count: number, timeoutMs: number): Promise<void> {
  return waitFor(
    async () => {
      const states = (await reminders()).map(({ state }) => state);
      expect(states.filter((state) => state !== 'completed')).toEqual([]);
      expect(states).toHaveLength(count);
    },
    { timeoutMs, intervalMs: 50 },
  );
}

/** Everybody was texted, and nobody twice. */
function expectOneTextEach(count: number): void {
  const texted = world.sms.messages().map(({ to }) => to);
  expect(texted).toHaveLength(count);
  expect(new Set(texted).size).toBe(count);
}

/** The next so many calls are carried out, and answered after `delayMs`. */
const answerLate = (delayMs: number, count = 1) => world.sms.fault({ kind: 'delay', delayMs, count });

const untilTexted = (count: number) => waitFor(() => expect(world.sms.messageCount).toBe(count), { timeoutMs: 10_000 });

const said = ({ stdout }: RunningService, sentence: string) =>
  stdout.filter((line) => line.includes(`"${sentence}"`)).length;

describe('a worker that is asked to stop', () => {
  it('waits for its job until the deadline and then hands it back; the next worker runs it at once, as the same attempt', async () => {
    await start('bridge');
    const first = await start('worker', { DRAIN: '1s' });
    answerLate(9_000);
    await insertAutoSyncs(1);
    await untilTexted(1);
    const askedAt = performance.now();
    const exited = first.kill('SIGTERM');
    // Its lease and BullMQ's lock would last for 15 s more: only what was handed back can run before.
    await start('worker');
    expect(await exited).toEqual({ code: 0, signal: null });
    expect(performance.now() - askedAt).toBeGreaterThan(1_000);

    await untilCompleted(1, 10_000);
    expect(performance.now() - askedAt).toBeLessThan(10_000);
    expect(await reminders()).toEqual([
      { state: 'completed', attempt: 1, interruptions: 0, runs: ['handed_back', 'completed'] },
    ]);
    expectOneTextEach(1);
  }, 40_000);

  it('and is asked again, exits at once with code 1', async () => {
    await start('bridge');
    const worker = await start('worker');
    answerLate(9_000);
    await insertAutoSyncs(1);
    await untilTexted(1);
    void worker.kill('SIGTERM');
    await waitFor(() => expect(said(worker, 'service stopping')).toBe(1));
    const askedAgainAt = performance.now();
    expect(await worker.kill('SIGTERM')).toEqual({ code: 1, signal: null });
    expect(performance.now() - askedAgainAt).toBeLessThan(1_000);
  });
});

it('a rolling restart of all workers under load runs every job once, interrupts none and spends no attempt', async () => {
  const COUNT = 300;
  await start('bridge');
  const workers = await Promise.all([start('worker'), start('worker')]);
  answerLate(250, COUNT);
  await insertAutoSyncs(COUNT);
  for (const replaced of workers) {
    const before = world.sms.messageCount;
    await waitFor(() => expect(world.sms.messageCount).toBeGreaterThan(before + 40), { timeoutMs: 10_000 });
    expect(await replaced.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(world.sms.messageCount).toBeLessThan(COUNT);
    await start('worker');
  }
  await untilCompleted(COUNT, 20_000);
  expectOneTextEach(COUNT);
  expect(await reminders()).toEqual(
    Array.from({ length: COUNT }, () => ({ state: 'completed', attempt: 1, interruptions: 0, runs: ['completed'] })),
  );
}, 60_000);

it('a job that takes five times its lease is run once, while another worker stands by', async () => {
  const env = { LEASE: '1s', STALLED_INTERVAL: '500ms' };
  await start('bridge');
  await Promise.all([start('worker', env), start('worker', env)]);
  answerLate(5_000);
  await insertAutoSyncs(1);
  await untilTexted(1);
  await sleep(4_000);
  // BullMQ's lock alone would keep it from the other worker, too; the row must say the same.
  const { rows } = await world.db.pool.query(
    "select locked_until > clock_timestamp() as leased from outbox.jobs where state = 'active'",
  );
  expect(rows).toEqual([{ leased: true }]);
  await untilCompleted(1, 15_000);
  expect(await reminders()).toEqual([{ state: 'completed', attempt: 1, interruptions: 0, runs: ['completed'] }]);
  expectOneTextEach(1);
}, 40_000);

describe('connections to Postgres that go silent without being closed', () => {
  const AT_ONCE = 20;

  async function expectNoneInterrupted(): Promise<void> {
    for (const reminder of await reminders()) expect(reminder).toMatchObject({ attempt: 1, interruptions: 0 });
  }

  /** A bridge and a worker with jobs in the middle of a call, and some to come. */
  async function startBusy(): Promise<void> {
    await Promise.all([start('bridge'), start('worker')]);
    answerLate(1_000, AT_ONCE);
    await insertAutoSyncs(AT_ONCE);
    await untilTexted(AT_ONCE);
  }

  it('hold everything up only for as long as new ones are silent too; then it goes on by itself', async () => {
    await startBusy();
    world.proxy.silence();
    await insertAutoSyncs(AT_ONCE);
    await sleep(6_000);
    await world.proxy.restore();
    await untilCompleted(2 * AT_ONCE, 30_000);
    expectOneTextEach(2 * AT_ONCE);
    await expectNoneInterrupted();
  }, 60_000);

  it('are replaced while they last, and everything goes on', async () => {
    await startBusy();
    world.proxy.silenceOpen();
    await insertAutoSyncs(AT_ONCE);
    // A statement on a connection that was checked out has no answer for 30 s before it is given up.
    await untilCompleted(2 * AT_ONCE, 60_000);
    expectOneTextEach(2 * AT_ONCE);
    await expectNoneInterrupted();
  }, 90_000);
});

it('a worker whose time of day is ten minutes ahead takes no job and says so, until its clock agrees; then each runs when due', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-clock-'));
  const file = join(folder, 'offset');
  await writeFile(file, String(10 * 60_000));
  await start('bridge');
  const port = String(await freePort());
  const started = start('worker', {
    HEALTH_PORT: port,
    NODE_OPTIONS: `--import=${pathToFileURL(join(import.meta.dirname, 'clock.preload.mjs')).href}`,
    CLOCK_OFFSET_FILE: file,
  });
  const readiness = async () => (await fetch(`http://127.0.0.1:${port}/readyz`)).text();
  await waitFor(async () => expect(await readiness()).toMatch(/off by -(599|600)\d{3} ms/));

  await insertAutoSyncs(1);
  await planReminders('4 s');
  await insertAutoSyncs(1);
  const untouched = { state: 'published', attempt: 0, interruptions: 0, runs: [] };
  await waitFor(async () => expect(await reminders()).toEqual([untouched, untouched]));
  await sleep(1_500);
  expect(await reminders()).toEqual([untouched, untouched]);

  await writeFile(file, '0');
  const worker = await started;
  await untilCompleted(2, 10_000);
  expect(said(worker, 'clock differs from the database, taking no jobs')).toBe(1);
  expect(said(worker, 'clock agrees with the database again')).toBe(1);
  const { rows } = await world.db.pool.query<{ lateMs: number }>(
    `select extract(epoch from started_at - scheduled_at)::float8 * 1000 as "lateMs"
     from outbox.jobs where name = 'reminder_24h' order by id desc limit 1`,
  );
  expect(rows[0]?.lateMs).toBeGreaterThanOrEqual(0);
  expect(rows[0]?.lateMs).toBeLessThan(2_000);
  await rm(folder, { recursive: true });
}, 40_000);

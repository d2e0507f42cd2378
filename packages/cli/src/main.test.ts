import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { connectQueueBackend, enqueue, loadConfig, sharedSettings, type QueueBackend } from '@outbox/core';
import { createTestDatabase, createTestPrefix, type TestDatabase, type TestPrefix } from '@outbox/testing';
import type { Queue } from 'bullmq';
import { run } from './program.ts';

const MAIN = join(import.meta.dirname, '../dist/main.js');

let database: TestDatabase;
let keys: TestPrefix;

beforeEach(async () => {
  database = await createTestDatabase();
  keys = createTestPrefix();
});
afterEach(async () => {
  await keys.removeKeys();
  await database.drop();
});

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the command with the role of the API unless told otherwise, and gives what it wrote. */
async function outbox(args: string[], env: Record<string, string> = {}): Promise<Ended> {
  const written = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((stream) =>
    jest.spyOn(process[stream], 'write').mockImplementation((text) => {
      written[stream] += String(text);
      return true;
    }),
  );
  try {
    return { code: await run(args, settings(env)), ...written };
  } finally {
    for (const spy of spies) spy.mockRestore();
    process.exitCode = undefined;
  }
}

/** The same as people run it: as a process of its own. */
function outboxProcess(args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [MAIN, ...args], { env: settings() }, (_error, stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

function settings(env: Record<string, string> = {}): Record<string, string | undefined> {
  return {
    PATH: process.env.PATH,
    DATABASE_URL: database.url,
    DATABASE_ROLE: 'outbox_api',
    OUTBOX_INSTANCE: 'test',
    ...env,
  };
}

async function outboxJson(args: string[], env: Record<string, string> = {}): Promise<unknown> {
  const { code, stdout, stderr } = await outbox([...args, '--json'], env);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as unknown;
}

async function query(sql: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(sql, values)).rows;
}

async function addJob(state = 'pending', key: string = randomUUID()): Promise<{ id: string; key: string }> {
  const { id } = await enqueue(database.pool, 'reminder_24h', { key, payload: { autoSyncId: key } });
  if (state !== 'pending') {
    await query(
      /* sql */ `
      update outbox.jobs
      set state = $2, holds_key = false, attempt = 3, last_error = 'no answer from +15555550101',
        finished_at = case when $2 in ('active', 'published') then null else now() end,
        locked_until = case when $2 = 'active' then now() + interval '1 minute' end
      where id = $1`,
      [id, state],
    );
  }
  return { id, key };
}

async function addUnknownEffect(jobId: string): Promise<string> {
  const [row] = await query(
    /* sql */ `
    insert into outbox.effects (key, job_id, run, provider, state, deadline_at, settled_at, reason)
    values ($1, $2, 1, 'sms', 'unknown', now(), now(), 'asked +15555550102')
    returning id`,
    [`test:${randomUUID()}`, jobId],
  );
  return String(row?.id);
}

function auditOf(jobId: string) {
  return query('select actor, role, action, detail from outbox.audit where job_id = $1', [jobId]);
}

const OPERATOR = { actor: userInfo().username, role: 'operator' };

/** One line, which begins with the name of the command. */
const oneLine = (text: string | RegExp) =>
  expect.stringMatching(
    new RegExp(`^outbox: [^\\n]*${text instanceof RegExp ? text.source : text}[^\\n]*\\n$`),
  ) as string;

test('the command says what it has done, or why it has not, and ends with 0, 1 or 2', async () => {
  expect(await outboxProcess(['jobs'])).toEqual({ code: 0, stdout: 'No such job.\n', stderr: '' });
  expect(await outboxProcess(['cancel', '77'])).toEqual({ code: 1, stdout: '', stderr: oneLine('77') });
  expect(await outboxProcess(['jobs', '--no-such-option'])).toMatchObject({ code: 2, stdout: '' });
});

describe('jobs', () => {
  test('lists them as a table, newest first, with phone numbers masked', async () => {
    await addJob();
    const failed = await addJob('failed');
    const { code, stdout } = await outbox(['jobs']);
    expect(code).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatch(/^ID +NAME +KEY +STATE +ATTEMPTS +DUE +FINISHED +WHY$/);
    expect(lines[1]).toMatch(new RegExp(`^${failed.id} +reminder_24h +${failed.key} +failed +3/\\d+ `));
    expect(stdout).toContain('[phone …01]');
    expect(stdout).not.toContain('5555550101');
  });

  test('lists those of a state, a name or a key, as JSON', async () => {
    const [pending, failed] = [await addJob(), await addJob('failed')];
    expect(await outboxJson(['jobs', '--state', 'failed'])).toMatchObject([{ id: failed.id, state: 'failed' }]);
    expect(await outboxJson(['jobs', '--key', pending.key])).toMatchObject([{ id: pending.id, key: pending.key }]);
    expect(await outboxJson(['jobs', '--name', 'pause_check_48h'])).toEqual([]);
    expect(await outboxJson(['jobs', '--limit', '1'])).toHaveLength(1);
  });
});

describe('acting on a job', () => {
  test('cancels it by its number, and writes down who did and why', async () => {
    const { id } = await addJob();
    const ended = await outbox(['cancel', id, '--reason', 'asked by phone']);
    expect(ended).toEqual({ code: 0, stdout: `reminder_24h ${id} is cancelled.\n`, stderr: '' });
    expect(await auditOf(id)).toEqual([{ ...OPERATOR, action: 'cancel', detail: { reason: 'asked by phone' } }]);
  });

  test('retries it by its uuid', async () => {
    const { id } = await addJob('failed');
    const [row] = await query('select outbox.job_uuid($1) as uuid', [id]);
    expect(await outboxJson(['retry', String(row?.uuid)])).toMatchObject({ id, state: 'pending', attempt: 0 });
    expect(await auditOf(id)).toEqual([{ ...OPERATOR, action: 'retry', detail: {} }]);
  });

  test('reschedules it to an instant, or from now by the clock of the database, and runs it now', async () => {
    const { id } = await addJob();
    const scheduledAt = '2030-01-31T09:00:00.000Z';
    expect(await outboxJson(['reschedule', id, '2030-01-31T10:00:00+01:00'])).toMatchObject({ scheduledAt });
    await outboxJson(['reschedule', id, '+2h']);
    const inTwoHours = `
      select scheduled_at - now() between interval '119 minutes' and interval '2 hours' as ok
      from outbox.jobs where id = $1`;
    expect(await query(inTwoHours, [id])).toEqual([{ ok: true }]);
    await outboxJson(['run-now', id]);
    expect(await query('select scheduled_at <= now() as due from outbox.jobs where id = $1', [id])).toEqual([
      { due: true },
    ]);
    expect((await auditOf(id)).map(({ action }) => action)).toEqual(['reschedule', 'reschedule', 'run-now']);
  });

  test('that its state does not allow is one line that says what to do, and exit code 1', async () => {
    const failed = await addJob('failed');
    const running = await addJob('active');
    const other = await addJob('pending', failed.key);
    expect(await outbox(['retry', failed.id])).toMatchObject({
      code: 1,
      stderr: oneLine(`Job ${other.id} does the same: .* Wait for that job, or cancel it`),
    });
    expect(await outbox(['run-now', running.id])).toMatchObject({ code: 1, stderr: oneLine('is running. Wait for') });
    expect(await outbox(['cancel', '999999999'])).toMatchObject({ code: 1, stderr: oneLine('There is no job') });
    expect(await outbox(['cancel', randomUUID()])).toMatchObject({ code: 1, stderr: oneLine('There is no job') });
    expect(await query('select 1 from outbox.audit')).toEqual([]);
  });
});

describe('effects', () => {
  test('that are unknown are listed and resolved; the job acts on the answer', async () => {
    const { id } = await addJob('completed');
    const effect = await addUnknownEffect(id);
    const listed = await outbox(['effects']);
    expect(listed.stdout).toMatch(new RegExp(`\\n${effect} +test:`));
    expect(listed.stdout).not.toContain('5555550102');
    const resolved = await outboxJson(['resolve', effect, 'confirmed', '--note', 'it is on the phone']);
    expect(resolved).toEqual({ id: effect, state: 'confirmed', job: expect.any(String) as string });
    expect(await query('select state, resolved_by, note from outbox.effects')).toEqual([
      { state: 'confirmed', resolved_by: OPERATOR.actor, note: 'it is on the phone' },
    ]);
    expect(await auditOf(id)).toMatchObject([{ ...OPERATOR, action: 'resolve-effect' }]);
    expect(await outbox(['effects'])).toMatchObject({ code: 0, stdout: 'No effect is unknown.\n' });
    expect(await outbox(['resolve', effect, 'rejected', '--note', 'x'])).toMatchObject({
      code: 1,
      stderr: oneLine('is confirmed, not unknown'),
    });
  });
});

describe('queues', () => {
  test('are paused and resumed', async () => {
    expect(await outboxJson(['pause', '--queue', 'reminders', '--reason', 'quiet'])).toEqual({
      queue: 'reminders',
      changed: true,
    });
    expect(await outbox(['pause', '--queue', 'reminders'])).toMatchObject({
      stdout: 'Queue reminders was paused already.\n',
    });
    const paused = `select paused_by, reason from outbox.queues where paused_at is not null`;
    expect(await query(paused)).toEqual([{ paused_by: OPERATOR.actor, reason: 'quiet' }]);
    expect(await outbox(['resume', '--queue', 'reminders'])).toMatchObject({ stdout: 'Queue reminders goes on.\n' });
    expect(await query(paused)).toEqual([]);
    expect(await outbox(['pause', '--queue', 'nothing'])).toMatchObject({ code: 1, stderr: oneLine('no queue named') });
  });
});

describe('a wrong command line is exit code 2, and changes nothing', () => {
  test.each([
    [[]],
    [['jump']],
    [['jobs', '--state', 'lost']],
    [['jobs', '--limit', '0']],
    [['cancel']],
    [['cancel', 'one']],
    [['cancel', '1', '2']],
    [['reschedule', '1']],
    [['reschedule', '1', 'tomorrow']],
    [['reschedule', '1', '+2']],
    [['pause']],
    [['resume']],
    [['resume', '--queue', 'reminders', '--after-restore']],
    [['resolve', '1', 'unknown', '--note', 'x']],
    [['resolve', '1', 'confirmed']],
    [['resolve', 'x', 'confirmed', '--note', 'x']],
  ])('%j', async (args) => {
    const { code, stderr } = await outbox(args);
    expect(code).toBe(2);
    expect(stderr).not.toBe('');
    expect(await query('select 1 from outbox.audit')).toEqual([]);
  });

  test('asking for help is not', async () => {
    const { code, stdout } = await outbox(['--help']);
    expect(code).toBe(0);
    for (const name of [
      'jobs',
      'cancel',
      'retry',
      'reschedule',
      'run-now',
      'pause',
      'resume',
      'effects',
      'resolve',
      'doctor',
    ]) {
      expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
    }
  });
});

describe('settings that are wrong', () => {
  test.each([
    [{ DATABASE_URL: '' }, 'DATABASE_URL: is missing'],
    [{ OUTBOX_INSTANCE: 'other' }, 'belongs to instance "test"'],
    [{ DATABASE_URL: 'postgres://outbox@127.0.0.1:1/outbox' }, 'does not answer'],
    [{ DATABASE_ROLE: 'outbox_worker' }, 'Set DATABASE_ROLE=outbox_api'],
  ])('%j is one line, and exit code 1', async (env, text) => {
    const { id } = await addJob();
    expect(await outbox(['run-now', id], env)).toMatchObject({ code: 1, stdout: '', stderr: oneLine(text) });
  });
});

describe('resume --after-restore', () => {
  let backend: QueueBackend;
  let queue: Queue;
  const asOwner = () => ({ DATABASE_ROLE: 'outbox_owner', REDIS_URL: keys.redisUrl, QUEUE_PREFIX: keys.prefix });

  beforeEach(async () => {
    const env = { DATABASE_URL: database.url, OUTBOX_INSTANCE: 'test', ...asOwner() };
    backend = await connectQueueBackend(loadConfig(sharedSettings, env), () => undefined);
    queue = backend.createQueue('reminders');
    await query(`update outbox.meta set counted_at = '2030-01-01T00:00:00Z'`);
  });
  afterEach(async () => {
    await queue.close();
    await backend.close();
  });

  test('says what will happen, and does nothing without --yes', async () => {
    const { id } = await addJob('published');
    await addJob('active');
    await queue.add('reminder_24h', {}, { jobId: `${id}-1` });
    const { code, stdout, stderr } = await outbox(['resume', '--after-restore'], asOwner());
    expect({ code, stderr }).toEqual({ code: 1, stderr: oneLine('Nothing was changed. Add --yes') });
    expect(stdout).toContain('Rows published again: 2, of which 1 were running.');
    expect(stdout).toContain('Calls made since 2030-01-01T00:00:00.000Z are unknown');
    expect(await queue.getJobCountByTypes('waiting')).toBe(1);
    expect(await query('select generation, restored_at from outbox.jobs, outbox.meta where id = $1', [id])).toEqual([
      { generation: 1, restored_at: null },
    ]);
  });

  test('empties our queues and lets work go on; they are not left paused', async () => {
    const { id } = await addJob('published');
    await queue.add('reminder_24h', {}, { jobId: `${id}-1` });
    await queue.add('reminder_24h', {}, { jobId: 'of-the-lost-time-1', delay: 3_600_000 });
    const result = await outboxJson(['resume', '--after-restore', '--yes'], asOwner());
    expect(result).toMatchObject({ rows: 1, running: 0, unknownSince: '2030-01-01T00:00:00.000Z' });
    expect(await queue.getJobCountByTypes('waiting', 'delayed')).toBe(0);
    expect(await queue.isPaused()).toBe(false);
    expect(await query('select state, generation from outbox.jobs where id = $1', [id])).toEqual([
      { state: 'pending', generation: 2 },
    ]);
    expect(await query('select restored_from from outbox.meta')).toEqual([
      { restored_from: new Date('2030-01-01T00:00:00Z') },
    ]);
    expect(await query('select actor, role, action from outbox.audit')).toEqual([
      { ...OPERATOR, action: 'resume-after-restore' },
    ]);
  });

  test('needs the owner of the outbox, and says so before anything is emptied', async () => {
    await queue.add('reminder_24h', {}, { jobId: '1-1' });
    const env = { ...asOwner(), DATABASE_ROLE: 'outbox_api' };
    expect(await outbox(['resume', '--after-restore', '--yes'], env)).toMatchObject({
      code: 1,
      stderr: oneLine('DATABASE_ROLE=outbox_owner'),
    });
    expect(await queue.getJobCountByTypes('waiting')).toBe(1);
  });

  test('changes nothing while Redis is away', async () => {
    const { id } = await addJob('published');
    const env = { ...asOwner(), REDIS_URL: 'redis://127.0.0.1:1' };
    expect(await outbox(['resume', '--after-restore', '--yes'], env)).toMatchObject({
      code: 1,
      stderr: oneLine('does not answer'),
    });
    expect(await query('select state from outbox.jobs where id = $1', [id])).toEqual([{ state: 'published' }]);
  });
});

describe('doctor', () => {
  const withRedis = () => ({ REDIS_URL: keys.redisUrl, QUEUE_PREFIX: keys.prefix });

  async function findings(env: Record<string, string> = withRedis()) {
    const { code, stdout } = await outbox(['doctor', '--json'], env);
    const found = JSON.parse(stdout) as { check: string; status: string; detail: string }[];
    return { code, of: (check: string) => found.find((finding) => finding.check === check), found };
  }

  test('finds nothing broken in a new installation', async () => {
    const { code, found } = await findings();
    expect(found.filter(({ status }) => status === 'broken')).toEqual([]);
    expect(code).toBe(0);
    expect((await outbox(['doctor'], withRedis())).stdout).toMatch(
      /^CHECK +STATUS +DETAIL\ninstallation +ok +instance test/,
    );
  });

  test('names what needs a person', async () => {
    const { id } = await addJob();
    await addUnknownEffect(id);
    await query(`alter table public.auto_syncs disable trigger on_auto_sync_created`);
    await query(`drop trigger on_auto_sync_deleted on public.auto_syncs`);
    // Another trigger of ours fires before an insert there, and captures nothing.
    await query(`drop trigger capture_golioth_schedules_insert on public.auto_sync_schedules`);
    await query(`select outbox.record_capture_error('t', 'j', 'k', '55P03', 'm')`);
    await query(`select outbox.pause_queue(name => 'reminders', paused_by => 'ada', reason => 'quiet')`);
    await query(`select outbox.resume_after_restore(counter => 1)`);
    await query(`insert into outbox.services (id, service, version, seen_at)
      values ('b1', 'bridge', '1', now() - interval '1 hour'), ('w1', 'worker', '1', now())`);
    const { code, of } = await findings();
    expect(code).toBe(1);
    const missing =
      /no enabled trigger for insert of public.auto_syncs \(reminder_24h\), delete of public.auto_syncs.*insert of public.auto_sync_schedules/;
    expect(of('captures')).toMatchObject({ status: 'broken', detail: expect.stringMatching(missing) as string });
    expect(of('capture errors')).toMatchObject({ status: 'broken' });
    expect(of('services')).toMatchObject({
      status: 'broken',
      detail: expect.stringContaining('bridge: 0 live') as string,
    });
    expect(of('effects')).toMatchObject({ status: 'look', detail: expect.stringContaining('1 unknown') as string });
    expect(of('queues')).toMatchObject({ status: 'look', detail: 'paused: reminders, by ada (quiet)' });
    expect((await outbox(['doctor'], withRedis())).stdout).toContain('delete its row of outbox.captures and migrate\n');
    expect(of('restore')).toMatchObject({ status: 'look', detail: expect.stringContaining('still open') as string });
  });

  test('says when commits do not wait for the disk', async () => {
    const set = (who: string, value: string) =>
      query(`do $$ begin execute format('${who} set synchronous_commit = ${value}', current_database()); end $$`);
    const durability = async () => (await findings()).of('durability');
    await set('alter database %I', 'on');
    expect((await durability())?.detail).not.toContain('synchronous_commit');
    await set('alter database %I', 'off');
    await set('alter role outbox_worker in database %I', 'off');
    const detail =
      /synchronous_commit is off, synchronous_commit is off for outbox_worker: after a crash of the database/;
    expect(await durability()).toMatchObject({ status: 'look', detail: expect.stringMatching(detail) as string });
  });

  test('looks for the triggers of the events that a rule captures, and for no others', async () => {
    await query('create table public.things (id int primary key)');
    await query(`select outbox.capture(name => 'things', table_name => 'public.things', job_name => 'reminder_24h',
      key => 'row.id::text', events => '{update}')`);
    expect((await findings()).of('captures')).toMatchObject({ status: 'ok' });
    await query('drop trigger capture_things_update on public.things');
    expect((await findings()).of('captures')).toMatchObject({
      status: 'broken',
      detail: expect.stringContaining('no enabled trigger for update of public.things (reminder_24h):') as string,
    });
  });

  test('tells services that live from those that died and those that were never started', async () => {
    const services = async () => (await findings()).of('services');
    expect(await services()).toMatchObject({ status: 'look', detail: 'no service is running' });
    // However slow this machine is, who lives lives until the end of the test.
    const add = (service: string, ago = '-1 hour') =>
      query(`insert into outbox.services (id, service, version, seen_at)
        values (gen_random_uuid()::text, '${service}', '1', now() - interval '${ago}')`);
    await add('bridge');
    await add('worker');
    const without = 'api: 0 live, bridge: 1 live, worker: 1 live; start what is missing';
    expect(await services()).toMatchObject({ status: 'look', detail: without });
    await add('api');
    await add('worker', '2 hours');
    const all = 'api: 1 live, bridge: 1 live, worker: 1 live';
    expect(await services()).toMatchObject({ status: 'ok', detail: all });
  });

  test('says so when the database is of another installation, or Redis is away, and looks at the rest', async () => {
    const { code, of } = await findings({ OUTBOX_INSTANCE: 'other', REDIS_URL: 'redis://127.0.0.1:1' });
    expect(code).toBe(1);
    expect(of('installation')).toMatchObject({ status: 'broken', detail: expect.stringContaining('"test"') as string });
    expect(of('queue backend')).toMatchObject({ status: 'broken' });
    expect(of('captures')).toMatchObject({ status: 'ok' });
  });
});

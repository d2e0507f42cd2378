import { DAY, MINUTE } from '@outbox/core';
import { createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createIntegration, insertSchedule, type ScheduleWish } from './schedules.fixture.ts';
import { slotsAfter } from './slot-oracle.fixture.ts';

let database: TestDatabase;
beforeEach(async () => void (database = await createTestDatabase()));
afterEach(() => database.drop());

async function sql<Row = Record<string, unknown>>(text: string, values: unknown[] = []): Promise<Row[]> {
  return (await database.pool.query<Row & Record<string, unknown>>(text, values)).rows;
}

async function setup(wish: ScheduleWish = {}) {
  const integration = await createIntegration(database.pool);
  return { integration, scheduleId: await insertSchedule(database.pool, integration.id, wish) };
}

interface Job {
  id: string;
  due: Date;
}

/** Claims the job that waits, as a worker does: it lets go of its key. */
async function claim(scheduleId: string): Promise<Job> {
  const claimed = `
    update outbox.jobs set holds_key = false, state = 'active', locked_until = now() + interval '1 minute', attempt = attempt + 1
    where key = $1 and holds_key returning id, due_at as due`;
  const [job] = await sql<Job>(claimed, [scheduleId]);
  if (!job) throw new Error('No job waits.');
  return job;
}

const end = (job: Job, state = 'completed') =>
  sql(`update outbox.jobs set state = $2, locked_until = null, finished_at = now() where id = $1`, [job.id, state]);

/** What begin_run says, at an instant that a test chooses. */
async function beginRun(job: Job, at: Date) {
  const [run] = await sql('select refusal, integration_id, started_at from golioth.begin_run($1, $2)', [job.id, at]);
  return run;
}

/** The instants for which a job of the schedule waits. */
async function waiting(scheduleId: string): Promise<Date[]> {
  const rows = await sql<{ due: Date }>('select due_at as due from outbox.jobs where key = $1 and holds_key', [
    scheduleId,
  ]);
  return rows.map(({ due }) => due);
}

async function runsOf(scheduleId: string) {
  const [row] = await sql<{ last: Date | null; next: Date | null }>(
    'select last_run_at as last, next_run_at as next from public.auto_sync_schedules where id = $1',
    [scheduleId],
  );
  return row;
}

const later = (instant: Date, ms: number) => new Date(instant.getTime() + ms);

describe('a run that begins', () => {
  test('notes its start and plans the next slot, in one transaction; its own write moves no job', async () => {
    const { scheduleId, integration } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    const at = later(job.due, 1_234);
    expect(await beginRun(job, at)).toEqual({ refusal: null, integration_id: integration.id, started_at: at });
    const next = later(job.due, 10 * MINUTE);
    expect(await waiting(scheduleId)).toEqual([next]);
    expect(await runsOf(scheduleId)).toEqual({ last: at, next });
    expect(await sql('select from outbox.jobs where key = $1 and generation > 1', [scheduleId])).toEqual([]);
    expect(await sql('select from outbox.capture_errors')).toEqual([]);
  });

  test('late, by hours, is one run for all that were missed, and the next is on its slot again', async () => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    await beginRun(job, later(job.due, 125 * MINUTE));
    expect(await waiting(scheduleId)).toEqual([later(job.due, 130 * MINUTE)]);
  });

  test('at its second attempt keeps last_run_at, and plans nothing that is planned already', async () => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    await beginRun(job, later(job.due, 1_000));
    const secondAt = later(job.due, MINUTE);
    expect(await beginRun(job, secondAt)).toMatchObject({ refusal: null, started_at: secondAt });
    expect(await runsOf(scheduleId)).toEqual({ last: later(job.due, 1_000), next: later(job.due, 10 * MINUTE) });
    expect(await waiting(scheduleId)).toHaveLength(1);
  });

  test('that is busy past its next slots lets one job wait, not one for each', async () => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    for (const minutes of [0, 11, 22, 33]) await beginRun(job, later(job.due, minutes * MINUTE));
    expect(await waiting(scheduleId)).toEqual([later(job.due, 10 * MINUTE)]);
  });

  test.each([
    ['disabled', 'update public.auto_sync_schedules set enabled = false'],
    ['deleted', 'delete from public.auto_sync_schedules'],
  ])('of a schedule that is %s has nothing to do and plans nothing', async (_how, change) => {
    const { scheduleId } = await setup();
    const job = await claim(scheduleId);
    await sql(change);
    expect(await beginRun(job, later(job.due, 1_000))).toMatchObject({ refusal: 'schedule_not_enabled' });
    expect(await waiting(scheduleId)).toEqual([]);
  });
});

test('a schedule that is disabled just while a run plans the next one is left with no job that waits', async () => {
  const { scheduleId } = await setup();
  const job = await claim(scheduleId);
  const planning = await database.pool.connect();
  await planning.query('begin');
  await planning.query('select golioth.begin_run($1)', [job.id]);
  const disabling = sql('update public.auto_sync_schedules set enabled = false where id = $1', [scheduleId]);
  await waitFor(async () => expect(await sql('select from pg_locks where not granted')).not.toEqual([]));
  await planning.query('commit');
  planning.release();
  await disabling;
  expect(await waiting(scheduleId)).toEqual([]);
  expect(await sql('select from outbox.capture_errors')).toEqual([]);
});

describe('with missed_runs = none', () => {
  beforeEach(() => sql(`update golioth.settings set missed_runs = 'none'`));

  test.each([
    [599_000, null],
    [600_000, 'missed'],
  ])('a run %i ms late of a frequency of ten minutes: %s; the next is planned', async (lateMs, refusal) => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    expect(await beginRun(job, later(job.due, lateMs))).toMatchObject({ refusal });
    expect(await waiting(scheduleId)).toHaveLength(1);
    expect((await runsOf(scheduleId))?.last).toEqual(refusal === null ? later(job.due, lateMs) : null);
  });

  test('a second attempt that comes after the next slot still runs: the run had begun', async () => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const job = await claim(scheduleId);
    await beginRun(job, later(job.due, 1_000));
    expect(await beginRun(job, later(job.due, 11 * MINUTE))).toMatchObject({ refusal: null });
  });
});

describe('with a spread', () => {
  const starts = `
    select extract(epoch from j.scheduled_at - s.next_run_at)::int as seconds, extract(epoch from j.scheduled_at) % 1 = 0 as whole
    from outbox.jobs j join public.auto_sync_schedules s on s.id::text = j.key where j.holds_key order by s.id`;

  test('starts are spread over it, each schedule always by the same part; slots stay where they are', async () => {
    await sql(`update golioth.settings set spread = '2 minutes'`);
    const { id } = await createIntegration(database.pool);
    const ids: string[] = [];
    for (let n = 0; n < 30; n += 1) ids.push(await insertSchedule(database.pool, id, { everyMinutes: 60 }));
    const first = await sql<{ seconds: number; whole: boolean }>(starts);
    expect(first.every(({ seconds, whole }) => whole && seconds >= 0 && seconds < 120)).toBe(true);
    expect(new Set(first.map(({ seconds }) => seconds)).size).toBeGreaterThan(15);
    for (const scheduleId of ids) {
      const job = await claim(scheduleId);
      await beginRun(job, job.due);
      await end(job);
    }
    expect(await sql(starts)).toEqual(first);
  });

  test('it never reaches the next slot: a frequency of a minute is spread over less than that', async () => {
    await sql(`update golioth.settings set spread = '1 hour'`);
    const { id } = await createIntegration(database.pool);
    for (let n = 0; n < 20; n += 1) await insertSchedule(database.pool, id, { everyMinutes: 1 });
    for (const { seconds } of await sql<{ seconds: number }>(starts)) expect(seconds).toBeLessThan(60);
  });
});

test('a year of a schedule in a zone with daylight saving, simulated, gives exactly the documented instants', async () => {
  const wish = { everyMinutes: 60, window: ['01:00', '04:00'], timezone: 'America/New_York' } as const;
  const { scheduleId } = await setup(wish);
  const [first] = await waiting(scheduleId);
  if (!first) throw new Error('No job waits.');
  const until = new Date(first);
  until.setUTCFullYear(until.getUTCFullYear() + 1);
  // Every run begins late, by up to 20 minutes, and the year is as it would be without that.
  await sql(
    `do $$
     declare
       job record;
     begin
       for run in 0 .. 2000 loop
         update outbox.jobs set holds_key = false, state = 'completed', finished_at = now()
         where key = '${scheduleId}' and holds_key returning id, due_at into job;
         exit when job.due_at >= '${until.toISOString()}';
         perform golioth.begin_run(job.id, job.due_at + run % 21 * interval '1 minute');
       end loop;
     end $$`,
  );
  const ran = await sql<{ due: Date }>('select due_at as due from outbox.jobs where due_at < $1 order by due_at', [
    until,
  ]);

  const schedule = { createdAt: first, frequencyMinutes: 60, window: { opens: 3_600, closes: 14_400 } };
  const known = [first.getTime() - 60 * DAY, until.getTime() + 90 * DAY] as const;
  const slots: Date[] = [];
  for (let slot: Date | undefined = first; slot && slot < until;) {
    slots.push(slot);
    [slot] = slotsAfter({ ...schedule, timezone: wish.timezone }, slot, 1, known);
  }
  expect(ran.map(({ due }) => due)).toEqual(slots);
  // Three a night, but for the one whose 02:00 is left out: it is the same instant as 03:00.
  expect(ran).toHaveLength(3 * 365 - 1);
});

describe('golioth.run_now', () => {
  const runNow = (id: string) => sql<{ id: string }>('select outbox.job_id(golioth.run_now($1)) as id', [id]);

  test('makes the job that waits due at once, and its slots stay where they are', async () => {
    const { scheduleId } = await setup({ everyMinutes: 10 });
    const slot = (await runsOf(scheduleId))?.next;
    const [{ id } = { id: '' }] = await runNow(scheduleId);
    expect(await sql('select scheduled_at <= clock_timestamp() as due, generation from outbox.jobs')).toEqual([
      { due: true, generation: 2 },
    ]);
    const job = await claim(scheduleId);
    expect(job.id).toBe(id);
    await beginRun(job, new Date());
    expect(await waiting(scheduleId)).toEqual([slot]);
  });

  test('while a run is under way runs once more after it; asked twice, once', async () => {
    const { scheduleId } = await setup();
    await claim(scheduleId);
    expect(await runNow(scheduleId)).toEqual(await runNow(scheduleId));
    expect(await waiting(scheduleId)).toHaveLength(1);
  });

  test('of an integration needs no schedule, and changes none', async () => {
    const { id } = await createIntegration(database.pool);
    expect(await runNow(id)).toEqual(await runNow(id));
    const job = await claim(id);
    expect(await beginRun(job, new Date())).toMatchObject({ refusal: null, integration_id: id });
    expect(await waiting(id)).toEqual([]);
    await sql('delete from public.integrations');
    expect(await beginRun(job, new Date())).toMatchObject({ refusal: 'integration_not_found' });
  });

  test('of a schedule that is not enabled, or of nothing, is refused', async () => {
    const { scheduleId } = await setup({ enabled: false });
    await expect(runNow(scheduleId)).rejects.toMatchObject({ code: '55000' });
    await expect(runNow('00000000-0000-4000-8000-000000000000')).rejects.toMatchObject({ code: 'P0002' });
  });
});

test('golioth.take_over plans the schedules that were there before the family was, at the instant that was left', async () => {
  await sql('alter table public.auto_sync_schedules disable trigger user');
  const { scheduleId } = await setup({ createdAt: '2026-01-01T00:00:00Z' });
  const { scheduleId: overdue } = await setup({ createdAt: '2026-01-01T00:00:00Z' });
  await sql(`update public.auto_sync_schedules set next_run_at = now() + interval '3 minutes' where id = $1`, [
    scheduleId,
  ]);
  await sql(`update public.auto_sync_schedules set next_run_at = now() - interval '3 hours' where id = $1`, [overdue]);
  await sql('alter table public.auto_sync_schedules enable trigger user');
  expect(await sql('select golioth.take_over() as taken')).toEqual([{ taken: '2' }]);
  const due = `
    select j.scheduled_at = s.next_run_at as kept, j.scheduled_at <= now() as now
    from outbox.jobs j join public.auto_sync_schedules s on s.id::text = j.key where s.id = $1`;
  expect(await sql(due, [scheduleId])).toEqual([{ kept: true, now: false }]);
  expect(await sql(due, [overdue])).toEqual([{ kept: false, now: true }]);
});

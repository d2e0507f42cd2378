import { setTimeout as wait } from 'node:timers/promises';
import { envBoolean, envInteger, SECOND } from '@outbox/core';
import { pauseCheck, sendReminder } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase, type Cell } from '../bench-case.ts';
import { enqueueChecks } from '../load.ts';
import { withStage, type Stage } from '../stage.ts';

const settings = z.object({
  future: envInteger(2, 1_000_000).default(100_000).describe('Published jobs that are due in 2 to 70 hours'),
  overdue: envInteger(2, 100_000).default(1_000).describe('Published jobs that are due when Redis loses everything'),
  goal: envInteger(1, 3_600).default(20).describe('Seconds within which all jobs are to be back'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});
type Settings = z.output<typeof settings>;

/** Both queues of the catalogue: one that is rebuilt after the other must not make its overdue jobs wait. */
const JOBS = [sendReminder, pauseCheck];
const QUEUES = JOBS.map(({ queue }) => queue);

const GIVE_UP_AFTER_MS = 5 * 60 * SECOND;
const LOOK_EVERY_MS = 100;

/** How long the system rests before Redis loses everything: what was written is on disk, nothing is under way. */
const SETTLE_MS = 3 * SECOND;

export const recovery = defineCase({
  name: 'recovery',
  description:
    'FLUSHALL under many published jobs: how long until BullMQ has all of them again, the overdue ones first',
  settings,
  run: (settings, say) =>
    withStage({ fsync: settings.fsync }, async (stage) => {
      await stage.start('bridge');
      say(`publishing ${settings.future} jobs that are due in hours`);
      await publishFuture(stage, settings, say);

      const stopped = await withoutWorker(stage, settings, say);
      const running = await withWorker(stage, settings, say);
      const inTime = [stopped, running].every(({ allMs }) => allMs <= settings.goal * SECOND);
      const intact = [stopped, running].every(({ lost, doubled }) => lost === 0 && doubled === 0);
      const overdueFirst = [stopped, running].every(({ futureBefore }) => futureBefore === 0);
      return {
        goals: [
          { text: `all jobs are back within ${settings.goal} s`, met: inTime },
          { text: 'no job is lost, none is there twice', met: intact },
          { text: 'no job that is due in hours was published before one that is due', met: overdueFirst },
        ],
        tables: [{ title: 'Seconds from FLUSHALL:', columns: COLUMNS, rows: [toRow(stopped), toRow(running)] }],
        notes: [
          `“Back” is in BullMQ for the jobs that are due in hours and, with the worker stopped, for the overdue ones; with the ` +
            `worker running the overdue ones have been run. Half of the jobs are in each of the queues ${QUEUES.join(' and ')}. ` +
            `Every BullMQ job id was compared with the rows afterwards.`,
        ],
        servers: stage.servers,
      };
    }),
});

const COLUMNS = [
  'Worker',
  'First job back',
  'All overdue back',
  'All back',
  'Jobs',
  'Lost',
  'Twice',
  'Future ones published before the last overdue one',
];

interface Recovered {
  worker: string;
  firstMs: number;
  overdueMs: number;
  allMs: number;
  jobs: number;
  lost: number;
  doubled: number;
  futureBefore: number;
}

function toRow({ worker, firstMs, overdueMs, allMs, ...counts }: Recovered): Cell[] {
  const seconds = [firstMs, overdueMs, allMs].map((ms) => (ms / SECOND).toFixed(1));
  return [worker, ...seconds, counts.jobs, counts.lost, counts.doubled, counts.futureBefore];
}

async function publishFuture(stage: Stage, { future }: Settings, say: (line: string) => void): Promise<void> {
  for (const job of JOBS)
    await enqueueChecks(stage.pool, job.name, Math.ceil(future / JOBS.length), FROM_2_TO_70_HOURS);
  await untilTrue(async () => {
    const { delayed } = await countJobs(stage);
    say(`  ${delayed} published`);
    return delayed >= future;
  }, SECOND);
}

const FROM_2_TO_70_HOURS = "now() + interval '2 hours' + random() * interval '68 hours'";

/** Jobs that wait for a worker when Redis loses them. */
async function withoutWorker(stage: Stage, { future, overdue }: Settings, say: (line: string) => void) {
  say(`publishing ${overdue} jobs that are due; no worker runs`);
  for (const job of JOBS) await enqueueChecks(stage.pool, job.name, Math.ceil(overdue / JOBS.length), 'now()');
  await untilTrue(async () => (await countJobs(stage)).waiting >= overdue);
  await wait(SETTLE_MS);
  return loseEverything(stage, { worker: 'stopped', future, say }, async () => {
    const { waiting } = await countJobs(stage);
    return { first: waiting > 0, overdue: waiting >= overdue };
  });
}

/** Jobs that fall due in the second in which Redis loses them, under a running worker. */
async function withWorker(stage: Stage, { future, overdue }: Settings, say: (line: string) => void) {
  say('starting the worker; it runs what is overdue');
  await stage.start('worker');
  await untilTrue(async () => (await countUnfinished(stage)) === 0);
  say(`publishing ${overdue} jobs that fall due when Redis loses them`);
  const dueInMs = 2 * SETTLE_MS;
  const due = Date.now() + dueInMs;
  for (const job of JOBS) {
    await enqueueChecks(stage.pool, job.name, Math.ceil(overdue / JOBS.length), `to_timestamp(${due / SECOND})`);
  }
  await untilTrue(async () => (await countJobs(stage)).delayed >= future + overdue);
  await wait(Math.max(0, due - Date.now()));
  return loseEverything(stage, { worker: 'running', future, say }, async () => {
    const unfinished = await countUnfinished(stage);
    return { first: unfinished < overdue, overdue: unfinished === 0 };
  });
}

async function loseEverything(
  stage: Stage,
  { worker, future, say }: { worker: string; future: number; say: (line: string) => void },
  look: () => Promise<{ first: boolean; overdue: boolean }>,
): Promise<Recovered> {
  const { rows } = await stage.pool.query<{ now: string }>('select clock_timestamp()::text as now');
  const flushedAt = rows[0]?.now ?? '';
  say('FLUSHALL');
  const started = performance.now();
  await stage.redis.flushall();

  const reached: Partial<Record<'first' | 'overdue' | 'all', number>> = {};
  const note = (what: keyof typeof reached, isReached: boolean) => {
    if (!isReached || reached[what] !== undefined) return;
    reached[what] = performance.now() - started;
    say(`  ${what}: ${(reached[what] / SECOND).toFixed(1)} s`);
  };
  await untilTrue(async () => {
    const { first, overdue } = await look();
    note('first', first);
    note('overdue', overdue);
    note('all', (await countJobs(stage)).delayed >= future);
    return reached.overdue !== undefined && reached.all !== undefined;
  });
  await wait(SETTLE_MS); // what would come twice would come now
  const { first: firstMs = 0, overdue: overdueMs = 0, all = 0 } = reached;
  const order = await stage.pool.query<{ futureBefore: number }>(FUTURE_BEFORE_OVERDUE, [flushedAt]);
  return {
    ...{ worker, firstMs, overdueMs, allMs: Math.max(all, overdueMs) },
    ...(await compare(stage)),
    futureBefore: order.rows[0]?.futureBefore ?? -1,
  };
}

/** Rows of one publish have the same instant, within the milliseconds of its statement: those do not count. */
const FUTURE_BEFORE_OVERDUE = /* sql */ `
  select count(*)::int as "futureBefore"
  from outbox.jobs f
  where f.scheduled_at > $1::timestamptz + interval '1 hour'
    and f.published_at < (
      select max(o.published_at) - interval '50 ms'
      from outbox.jobs o
      where o.generation > 1 and o.published_at >= $1::timestamptz and o.scheduled_at < $1::timestamptz + interval '1 hour'
    )
    and f.published_at >= $1::timestamptz`;

async function countJobs({ backend }: Stage): Promise<{ waiting: number; delayed: number }> {
  let [waiting, delayed] = [0, 0];
  for (const name of QUEUES) {
    const counts = await queueOf(backend, name).getJobCounts('wait', 'delayed');
    waiting += counts.wait ?? 0;
    delayed += counts.delayed ?? 0;
  }
  return { waiting, delayed };
}

/** Jobs of this case that are not due in hours and have not ended. */
async function countUnfinished({ pool }: Stage): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    "select count(*)::int as count from outbox.jobs where finished_at is null and scheduled_at < now() + interval '1 hour'",
  );
  return rows[0]?.count ?? 0;
}

/** As many as the bridge asks for: Redis answers them within the time of one command. */
const PLACES_AT_ONCE = 1_000;

/** Compares every id in BullMQ with the open rows; a job of BullMQ that no row wants counts as one too many. */
async function compare({ pool, backend }: Stage): Promise<{ jobs: number; lost: number; doubled: number }> {
  const total = { jobs: 0, lost: 0, doubled: 0 };
  for (const name of QUEUES) {
    const queue = queueOf(backend, name);
    const inLists = await queue.getRanges(['wait', 'prioritized', 'delayed', 'active'], 0, -1);
    const open = new Set<string>();
    for (let at = 0; at < inLists.length; at += PLACES_AT_ONCE) {
      const places = await backend.placesOf(name, inLists.slice(at, at + PLACES_AT_ONCE));
      for (const [id, place] of places) if (place === 'open') open.add(id);
    }
    const { rows } = await pool.query<{ id: string }>(
      "select id || '-' || generation as id from outbox.jobs where finished_at is null and queue = $1",
      [name],
    );
    const wanted = new Set(rows.map(({ id }) => id));
    total.jobs += open.size;
    total.lost += [...wanted].filter((id) => !open.has(id)).length;
    total.doubled += inLists.length - open.size + [...open].filter((id) => !wanted.has(id)).length;
  }
  const ranTwice = await pool.query('select 1 from outbox.attempts group by job_id having count(*) > 1');
  total.doubled += ranTwice.rowCount ?? 0;
  return total;
}

const queues = new Map<string, ReturnType<Stage['backend']['createQueue']>>();

function queueOf(backend: Stage['backend'], name: string) {
  const queue = queues.get(name) ?? backend.createQueue(name);
  queues.set(name, queue);
  return queue;
}

/** A look that fails is repeated: a server that is busy being filled may not answer in time. */
async function untilTrue(look: () => Promise<boolean>, everyMs = LOOK_EVERY_MS): Promise<void> {
  const deadline = performance.now() + GIVE_UP_AFTER_MS;
  while (!(await look().catch(() => false))) {
    if (performance.now() > deadline) throw new Error(`Not reached within ${GIVE_UP_AFTER_MS / SECOND} s.`);
    await wait(everyMs);
  }
}

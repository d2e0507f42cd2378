import { loadavg } from 'node:os';
import { setTimeout as wait } from 'node:timers/promises';
import { envBoolean, envInteger, SECOND, withTransaction } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase, type Cell } from '../bench-case.ts';
import { enqueueChecks } from '../load.ts';
import { withStage, type Stage } from '../stage.ts';

const settings = z.object({
  seconds: envInteger(60, 86_400).default(180).describe('How long the load lasts; the first third is the yardstick'),
  backlog: envInteger(100, 100_000).default(2_000).describe('Jobs kept open: as soon as some end, as many are added'),
  loss: envInteger(1, 100).default(20).describe('Most percent that throughput may fall below the first third'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});
type Settings = z.output<typeof settings>;

const WINDOW_MS = 10 * SECOND;
const WARM_UP_MS = 10 * SECOND;
const TOP_UP_EVERY_MS = 20;

/** Statements that began earlier have committed by now: what is counted up to here stays as it is. */
const STRAGGLERS_MS = 300;

export const soak = defineCase({
  name: 'soak',
  description: 'Full load while an old transaction is held open, so that vacuum can remove nothing',
  settings,
  run: (settings, say) =>
    withStage({ fsync: settings.fsync }, async (stage) => {
      await stage.start('bridge');
      await stage.start('worker');
      const windows = await load(stage, settings, say);
      const yardstick = average(windows.filter(({ held }) => !held));
      const lowest = Math.min(...windows.filter(({ held }) => held).map(({ perSecond }) => perSecond));
      const last = average(windows.filter(({ held }) => held).slice(-3));
      const least = 1 - settings.loss / 100;
      return {
        goals: [
          {
            text:
              `after an old transaction was held open for ${(windows.filter(({ held }) => held).length * WINDOW_MS) / SECOND} s, ` +
              `the last 30 s are at ${ratio(last, yardstick)} of the first third (at least ${least.toFixed(2)})`,
            met: last >= least * yardstick,
          },
        ],
        tables: [
          {
            title: `Jobs from enqueue to the end of their row, per second (the lowest window with the transaction open: ${ratio(lowest, yardstick)} of the first third, ${Math.round(yardstick)}/s):`,
            columns: [
              'Seconds',
              'Old transaction',
              'Jobs/s',
              'Of the first third',
              'Pages per job',
              'Dead rows: ready',
              'jobs',
              'Load',
            ],
            rows: windows.map((window) => toRow(window, yardstick)),
          },
        ],
        notes: [
          `${settings.backlog} jobs are kept open, so the figure is what the system can do, not what it is asked for. A job is a pause ` +
            'check of an auto sync that is not there: claimed, looked up, finished as skipped.',
          'Pages per job: how often a page of the tables and indexes of the schema outbox was touched, by everybody: looks ' +
            'at fixed intervals weigh more when jobs are slow. Load: of the whole machine; when it changes, the ratios say nothing.',
        ],
        servers: stage.servers,
      };
    }),
});

interface Window {
  endsAt: number;
  held: boolean;
  perSecond: number;
  pagesPerJob: number;
  deadReady: number;
  deadJobs: number;
  /** Of the whole machine. */
  load: number;
}

function toRow(window: Window, yardstick: number): Cell[] {
  const { endsAt, held, perSecond, pagesPerJob, deadReady, deadJobs, load: machineLoad } = window;
  const speed = [Math.round(perSecond), ratio(perSecond, yardstick), Math.round(pagesPerJob)];
  return [endsAt, held ? 'open' : '', ...speed, deadReady, deadJobs, machineLoad.toFixed(1)];
}

function ratio(figure: number, of: number): string {
  return (figure / of).toFixed(2);
}

function average(windows: Window[]): number {
  return windows.reduce((sum, { perSecond }) => sum + perSecond, 0) / windows.length;
}

/** Warms up, then measures window by window; the old transaction begins after the first third and stays to the end. */
async function load(stage: Stage, { seconds, backlog }: Settings, say: (line: string) => void): Promise<Window[]> {
  const stop = new AbortController();
  const producing = produce(stage, backlog, stop.signal);
  const held = new AbortController();
  let holding: Promise<void> | undefined;
  try {
    await Promise.race([producing, wait(WARM_UP_MS)]);
    const windows: Window[] = [];
    const count = Math.floor((seconds * SECOND) / WINDOW_MS);
    let from = { ...(await finishedSoFar(stage)), ...(await tableStatistics(stage)) };
    for (let index = 0; index < count; index += 1) {
      if (index === Math.floor(count / 3)) {
        say('an old transaction is open from now on');
        holding = holdOpen(stage, held.signal);
      }
      await Promise.race([producing, wait(WINDOW_MS)]);
      const to = { ...(await finishedSoFar(stage)), ...(await tableStatistics(stage)) };
      const jobs = to.count - from.count;
      const window = {
        ...{ endsAt: ((index + 1) * WINDOW_MS) / SECOND, held: holding !== undefined },
        perSecond: (jobs / (to.atMs - from.atMs)) * SECOND,
        pagesPerJob: (to.pages - from.pages) / Math.max(1, jobs),
        ...{ deadReady: to.deadReady, deadJobs: to.deadJobs, load: loadavg()[0] ?? 0 },
      };
      from = to;
      windows.push(window);
      say(
        `${Math.round(window.perSecond)} jobs/s, ${Math.round(window.pagesPerJob)} pages per job; ` +
          `dead rows: ready ${window.deadReady}, jobs ${window.deadJobs}`,
      );
    }
    return windows;
  } finally {
    held.abort();
    stop.abort();
    await Promise.allSettled([producing, holding]);
  }
}

/** Sees the database as it is now, until told to let go: no row that dies after this can be removed. */
async function holdOpen({ pool }: Stage, letGo: AbortSignal): Promise<void> {
  await withTransaction(pool, async (client) => {
    await client.query('set local idle_in_transaction_session_timeout = 0');
    await client.query('set transaction isolation level repeatable read');
    await client.query('select count(*) from outbox.queues');
    await wait(24 * 3_600 * SECOND, undefined, { signal: letGo }).catch(() => undefined);
  });
}

/** Keeps `backlog` jobs open until stopped. */
async function produce(stage: Stage, backlog: number, signal: AbortSignal): Promise<void> {
  let added = 0;
  while (!signal.aborted) {
    const { count } = await finishedSoFar(stage);
    const missing = backlog - (added - count);
    if (missing > 0) {
      await enqueueChecks(stage.pool, pauseCheck.name, missing, 'now()');
      added += missing;
    }
    await wait(TOP_UP_EVERY_MS);
  }
}

interface Finished {
  count: number;
  /** By the database's clock; jobs that ended later are not counted. */
  atMs: number;
}

const progress = new WeakMap<Stage, Finished>();

/** Counts on from the last count: looking at every finished row again would slow down what is measured. */
async function finishedSoFar(stage: Stage): Promise<Finished> {
  const before = progress.get(stage) ?? { count: 0, atMs: 0 };
  const { rows } = await stage.pool.query<Finished>(
    /* sql */ `
    with until as (select extract(epoch from clock_timestamp())::float8 * 1000 - ${STRAGGLERS_MS} as ms)
    select u.ms as "atMs", (
      select count(*)::int
      from outbox.jobs j
      where j.finished_at >= to_timestamp($1::float8 / 1000) and j.finished_at < to_timestamp(u.ms / 1000)
    ) as count
    from until u`,
    [before.atMs],
  );
  const now = rows[0];
  if (!now) return before;
  // Two of us count side by side; only the later one is kept.
  const after = { count: before.count + now.count, atMs: now.atMs };
  if ((progress.get(stage)?.atMs ?? 0) < after.atMs) progress.set(stage, after);
  return after;
}

interface TableStatistics {
  /** Reads of pages so far, cached or not. */
  pages: number;
  deadReady: number;
  deadJobs: number;
}

async function tableStatistics({ pool }: Stage): Promise<TableStatistics> {
  const { rows } = await pool.query<TableStatistics & Record<string, unknown>>(/* sql */ `
    select
      sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0))::float8 as pages,
      max(n_dead_tup) filter (where relname = 'ready')::int as "deadReady",
      max(n_dead_tup) filter (where relname = 'jobs')::int as "deadJobs"
    from pg_statio_user_tables
    join pg_stat_user_tables using (relid, schemaname, relname)
    where schemaname = 'outbox'`);
  return rows[0] ?? { pages: 0, deadReady: 0, deadJobs: 0 };
}

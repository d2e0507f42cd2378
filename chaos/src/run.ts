import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, STEPS, type Pool } from '@outbox/core';
import { FaultRun } from './faults/run.ts';
import { History } from './history.ts';
import { checkInvariants, slowestWrite, type World } from './invariants/index.ts';
import type { Options } from './options.ts';
import { Recovery } from './recovery.ts';
import { findSlowestRecovery, isBroken, summarize, toMarkdown, type Report } from './report.ts';
import type { Schedule } from './schedule.ts';
import { setStage, type Cleanup, type Stage } from './stage.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
const PROGRESS_EVERY_MS = 10 * SECOND;
const LOOK_EVERY_MS = 500;

const STOPPED_BY_HAND = 130;

/** Plays the schedule, waits for quiet, judges, and reports. Returns the exit code. */
export async function run(options: Options, schedule: Schedule): Promise<number> {
  const history = new History(join(REPOSITORY, '.outbox/chaos', `${timestamp()}-seed-${options.seed}`));
  await history.open();
  const cleanups: Cleanup[] = [() => history.close()];
  const stopped = onStop();
  let keep = true;
  try {
    const report = await play(options, schedule, { history, cleanups, stopped });
    if (!report) return STOPPED_BY_HAND;
    keep = isBroken(report) || options.keep;
    await publish(report, options, history);
    return isBroken(report) ? 1 : 0;
  } finally {
    await undo(cleanups);
    if (keep) say(`History: ${history.folder}`);
    else await history.remove();
  }
}

interface Playing {
  history: History;
  cleanups: Cleanup[];
  stopped: AbortSignal;
}

/** Undefined when a person stopped it. */
async function play(
  options: Options,
  { business: plan, faults }: Schedule,
  { history, cleanups, stopped }: Playing,
): Promise<Report | undefined> {
  const started = Date.now();
  say(
    `Seed ${options.seed}: ${plan.syncs.length} auto syncs, ${faults.length} faults in ${options.durationMs / SECOND} s.`,
  );
  const over = new AbortController();
  stopped.addEventListener('abort', () => over.abort());
  const stage = await setStage({ history, plan, over: over.signal, cleanups });
  await stage.business.prepare();

  const recovery = new Recovery(stage.admin);
  const faultRun = new FaultRun({ faults, stage, recovery, history });
  cleanups.push(() => recovery.stop());
  const progress = setInterval(() => void tellProgress(stage, faultRun), PROGRESS_EVERY_MS);
  cleanups.push(() => clearInterval(progress));
  const lag = monitorEventLoopDelay();
  lag.enable();

  say('All services are ready: business and faults begin.');
  recovery.start();
  await Promise.all([stage.business.run(over.signal), faultRun.run()]);
  over.abort();
  if (stopped.aborted) return undefined;

  say('Business and faults are over: waiting for the outbox to become quiet.');
  const quietAfterMs = await untilQuiet(stage.admin, options.drainMs, stopped);
  if (stopped.aborted) return undefined;
  await stage.business.resolveUnknown();
  const world: World = { pool: stage.admin, business: stage.business, messages: stage.sms.messages(), stage };
  const findings = await checkInvariants(world);
  const report: Report = {
    ...(await measure(world, faultRun, lag)),
    seed: options.seed,
    commit: commitOf(),
    durationMs: Date.now() - started,
    quietAfterMs,
    findings,
  };
  if (isBroken(report) || options.keep) await keepEvidence(world, history);
  return report;
}

async function measure(world: World, { records }: FaultRun, lag: IntervalHistogram) {
  const { rows } = await world.pool.query<{ jobs: number }>('select count(*)::int as jobs from outbox.jobs');
  const slowest = slowestWrite(world);
  const { stepsHit } = world.stage;
  return {
    jobs: rows[0]?.jobs ?? 0,
    autoSyncs: world.business.syncs.filter(({ fate }) => fate === 'committed').length,
    texts: world.messages.length,
    writes: world.business.writes.all.length,
    faults: summarize(records),
    stepsHit: STEPS.filter((step) => stepsHit.has(step)),
    stepsMissed: STEPS.filter((step) => !stepsHit.has(step)),
    slowestRecovery: findSlowestRecovery(records),
    slowestWrite: slowest && { what: slowest.what, ms: slowest.durationMs },
    harnessLagMs: lag.max / 1_000_000,
  };
}

const COUNT_OPEN = /* sql */ `
  select
    (select count(*) from outbox.jobs where finished_at is null)::int as open,
    (select count(*) from outbox.ready)::int as ready,
    (select count(*) from outbox.removals)::int as removals`;

/** Resolves with how long it took, or with undefined when it did not become quiet within `timeoutMs`. */
async function untilQuiet(pool: Pool, timeoutMs: number, stopped: AbortSignal): Promise<number | undefined> {
  const started = performance.now();
  while (!stopped.aborted && performance.now() - started < timeoutMs) {
    const { rows } = await pool.query<{ open: number; ready: number; removals: number }>(COUNT_OPEN);
    const [left] = rows;
    if (left && left.open + left.ready + left.removals === 0) return performance.now() - started;
    await wait(LOOK_EVERY_MS);
  }
  return undefined;
}

async function tellProgress(stage: Stage, faultRun: FaultRun): Promise<void> {
  const counted = await stage.admin
    .query<{ open: number; done: number }>(
      'select count(*) filter (where finished_at is null)::int as open, count(*)::int as done from outbox.jobs',
    )
    .catch(() => undefined);
  const { open, done } = counted?.rows[0] ?? { open: '?', done: '?' };
  const now = faultRun.underWay;
  say(
    `${done} jobs, ${open} open, ${stage.sms.messageCount} texts, ${faultRun.records.length} faults` +
      (now.length > 0 ? ` (now: ${now.join(', ')})` : ''),
  );
}

async function keepEvidence({ pool, messages }: World, history: History): Promise<void> {
  for (const message of messages) history.note('messages', message);
  await history.dump(pool);
}

async function publish(report: Report, options: Options, history: History): Promise<void> {
  const markdown = toMarkdown(report);
  process.stdout.write(`\n${markdown}\n`);
  await history.write('report.md', markdown);
  await history.write('report.json', JSON.stringify(report, undefined, 2));
  if (options.report === undefined) return;
  await mkdir(dirname(options.report), { recursive: true });
  await writeFile(options.report, options.report.endsWith('.json') ? JSON.stringify(report, undefined, 2) : markdown);
}

/** The first signal ends the run in order, the second at once. */
function onStop(): AbortSignal {
  const stopped = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (stopped.signal.aborted) process.exit(1);
      say('Stopping …');
      stopped.abort();
    });
  }
  return stopped.signal;
}

async function undo(cleanups: Cleanup[]): Promise<void> {
  for (const cleanup of cleanups.reverse()) {
    await Promise.resolve()
      .then(cleanup)
      .catch((error: unknown) => say(`Clean-up: ${error instanceof Error ? error.message : String(error)}`));
  }
}

function commitOf(): string {
  try {
    const git = (...args: string[]) => execFileSync('git', args, { cwd: REPOSITORY, encoding: 'utf8' }).trim();
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : ' and changes');
  } catch {
    return 'unknown';
  }
}

function timestamp(): string {
  return new Date().toISOString().slice(0, 'YYYY-MM-DDTHH:MM:SS'.length).replaceAll(':', '-');
}

function say(line: string): void {
  process.stdout.write(`${new Date().toISOString().slice('YYYY-MM-DDT'.length, -1)}  ${line}\n`);
}

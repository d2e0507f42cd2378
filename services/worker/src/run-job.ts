import {
  assertNever,
  JobTimeoutError,
  LeaseLostError,
  type DatabaseClock,
  type JobDefinition,
  type JobHandler,
  type Logger,
  type Outcome,
  type Pool,
} from '@outbox/core';
import { DelayedError, UnrecoverableError, type Job } from 'bullmq';
import type { ClaimedJob, Delivery, Verdict } from './claim.ts';
import { endingOf, endingOfError, endingOfRecord, TooOldError, unlessUndecided, type Ending } from './ending.ts';
import { hasOpenEffects } from './effects.ts';
import { describeError, storable, type FinishRequest, type FinishResult } from './finish.ts';
import { JobRun } from './job-run.ts';
import type { Leases } from './leases.ts';
import type { ProviderGate } from './provider-gate.ts';
import { isTransient, untilItWorks } from './until-it-works.ts';

/** What running jobs needs, made once per process. */
export interface JobRunner<Dependencies> {
  pool: Pool;
  clock: DatabaseClock;
  leases: Leases;
  providers: ProviderGate;
  claim: (delivery: Delivery) => Promise<Verdict>;
  finish: (request: FinishRequest) => Promise<FinishResult>;
  findDefinition: (name: string) => JobDefinition | undefined;
  findHandler: (name: string) => JobHandler<JobDefinition, Dependencies> | undefined;
  dependencies: Dependencies;
  /** Aborts when the process stops and its patience is over. */
  handBack: AbortSignal;
  log: Logger;
}

/** Tells BullMQ's own retry when the row says it is due again. */
export class RetryAtError extends Error {
  readonly delayMs: number;

  constructor(message: string, delayMs: number) {
    super(message);
    this.delayMs = delayMs;
  }
}

/**
 * Runs one delivered BullMQ job: claim, handle, end the row, answer BullMQ, one log line. The row decides everything;
 * BullMQ is told what the row says. Nothing but a decision of the row completes or fails a BullMQ job: when none could be
 * had (Postgres refuses in a way that repeating does not mend), the job is put off and asks again.
 */
export async function runJob<Dependencies extends object>(
  bullJob: Job,
  token: string | undefined,
  runner: JobRunner<Dependencies>,
): Promise<unknown> {
  const delivery = parseJobId(bullJob.id);
  if (!delivery) return { dropped: 'not_ours' };
  const decision = await decide(delivery, bullJob, runner).catch((err: unknown): Decision => {
    if (!runner.handBack.aborted) runner.log.error({ err, jobId: bullJob.id }, 'job undecided');
    return { kind: 'later', atMs: runner.clock.now() + UNDECIDED_RETRY_MS };
  });
  return answer(decision, bullJob, token, runner.clock);
}

/** The row's decision about one delivery, in BullMQ's terms. Times are epoch milliseconds by the database's clock. */
type Decision =
  | { kind: 'complete'; value: unknown }
  | { kind: 'fail'; message: string }
  /** BullMQ counts a failed attempt. */
  | { kind: 'retry'; message: string; atMs: number }
  /** BullMQ counts nothing. */
  | { kind: 'later'; atMs: number };

const UNDECIDED_RETRY_MS = 1_000;

async function decide<Dependencies extends object>(
  delivery: Delivery,
  bullJob: Job,
  runner: JobRunner<Dependencies>,
): Promise<Decision> {
  const verdict = await untilItWorks(() => runner.claim(delivery), { signal: runner.handBack });
  switch (verdict.kind) {
    case 'drop':
      runner.log.debug({ jobId: bullJob.id, reason: verdict.reason }, 'job dropped');
      return { kind: 'complete', value: { dropped: verdict.reason } };
    case 'later':
      runner.log.debug({ jobId: bullJob.id, reason: verdict.reason }, 'job put off');
      return { kind: 'later', atMs: verdict.atMs };
    case 'run':
      return runClaimed(verdict.job, bullJob, runner);
    default:
      return assertNever(verdict);
  }
}

async function runClaimed<Dependencies extends object>(
  job: ClaimedJob,
  bullJob: Job,
  runner: JobRunner<Dependencies>,
): Promise<Decision> {
  const startedAt = performance.now();
  const log = new LogOfRun(runner.log, job, bullJob.id);
  const { ending, result } = await attemptAndEnd(job, log, runner);
  const truth = trueEnding(ending, result);
  logAttempt(log, truth, { queuedMs: Math.round(job.queuedMs), durationMs: Math.round(performance.now() - startedAt) });
  return decisionOf(truth, 'scheduledMs' in result ? result.scheduledMs : runner.clock.now() + LOST_RETRY_MS);
}

/** Made when something is logged: most runs log their end alone, and that not at every level. */
class LogOfRun {
  readonly #parent: Logger;
  readonly #fields: object;
  #log: Logger | undefined;

  constructor(parent: Logger, { queue, name, id, attempt, maxAttempts }: ClaimedJob, jobId: string | undefined) {
    this.#parent = parent;
    this.#fields = { queue, jobName: name, jobId, outboxId: id, attempt, maxAttempts };
  }

  get logger(): Logger {
    return (this.#log ??= this.#parent.child(this.#fields));
  }

  write(level: 'info' | 'warn' | 'error', fields: object, message: string): void {
    if (this.#parent.isLevelEnabled(level)) this.logger[level](fields, message);
  }
}

function trueEnding(ending: Ending, result: FinishResult): Ending {
  if (result.kind === 'otherwise') return endingOfRecord(result.outcome, result.reason);
  return result.kind === 'finished' ? ending : { kind: 'lost' };
}

/** One for all runs: an error of its own would cost each of them a stack trace. */
const RUN_HAS_ENDED = new LeaseLostError('This run has ended.');

/** Parses, handles, classifies and ends the row, within the job's time-out even when the handler ignores its signal. */
async function attemptAndEnd<Dependencies extends object>(
  job: ClaimedJob,
  log: LogOfRun,
  runner: JobRunner<Dependencies>,
): Promise<{ ending: Ending; result: FinishResult }> {
  const abort = new AbortController();
  const overrun = () => abort.abort(new JobTimeoutError(`${job.name} ran longer than ${job.timeoutMs} ms.`));
  const timer = setTimeout(overrun, job.timeoutMs);
  const release = runner.leases.keep(job, (reason) => abort.abort(reason));
  const calls = runner.providers.open(job, abort.signal);
  const run = new JobRun(job, { pool: runner.pool, signal: abort.signal, calls, log });
  try {
    if (runner.handBack.aborted) abort.abort(runner.handBack.reason);
    const outcome = await Promise.race([handle(job, run, runner), rejectOnAbort(abort.signal)]).then(
      (value) => ({ ending: endingOf(value) as Ending, error: undefined }),
      (error: unknown) => ({ ending: endingOfError(error, job), error }),
    );
    // What `complete` has committed is the truth, whatever the handler returned or threw afterwards.
    const wanted = await calls.judge(run.completed?.ending ?? outcome.ending, outcome.error);
    if (run.completed) return run.completed;
    const undecided = run.effectsUndecided || (await hasOpenCalls(job, wanted, runner));
    const ending = unlessUndecided(wanted, undecided);
    return { ending, result: await endRow({ job, ending, undecided, progress: run.unwrittenProgress }, runner) };
  } finally {
    clearTimeout(timer);
    release();
    // Whatever the handler still does has no effect: every call of its context throws from here on.
    abort.abort(RUN_HAS_ENDED);
  }
}

/** Asked only when a run did not succeed: one that did has settled its calls. */
async function hasOpenCalls<Dependencies>(
  job: ClaimedJob,
  ending: Ending,
  runner: JobRunner<Dependencies>,
): Promise<boolean> {
  if (ending.kind === 'completed' || ending.kind === 'skipped' || ending.kind === 'lost') return false;
  return untilItWorks(() => hasOpenEffects(runner.pool, job.id));
}

async function handle<Dependencies extends object>(
  job: ClaimedJob,
  run: JobRun,
  runner: JobRunner<Dependencies>,
): Promise<Outcome> {
  const definition = runner.findDefinition(job.name);
  const handler = runner.findHandler(job.name);
  if (!definition || !handler) throw new TooOldError(`No handler for "${job.name}" in this version.`, 'unknown_job');
  const payload = definition.payload.safeParse(job.payload);
  if (!payload.success) {
    throw new TooOldError(`The payload does not parse in this version: ${payload.error.message}`, 'invalid_payload');
  }
  return handler(payload.data, Object.assign(run, runner.dependencies));
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}

/** Writes the end until Postgres has taken it, or another run holds the row. */
async function endRow<Dependencies>(
  { ending, ...request }: { job: ClaimedJob; ending: Ending; undecided: boolean; progress: unknown },
  runner: JobRunner<Dependencies>,
): Promise<FinishResult> {
  if (ending.kind === 'lost') return { kind: 'lost' };
  return untilItWorks(
    async () => {
      const result = await runner.finish({ ...request, ending });
      if (result.kind === 'busy') throw new RowLockedError();
      return result;
    },
    {
      isWorthRepeating: (error) => error instanceof RowLockedError || isTransient(error),
    },
  );
}

class RowLockedError extends Error {}

/** The claim of the next delivery says what became of a lost row. */
const LOST_RETRY_MS = 1_000;

function decisionOf(ending: Ending, dueMs: number): Decision {
  switch (ending.kind) {
    case 'completed':
      return { kind: 'complete', value: { completed: storable(ending.result) } };
    case 'skipped':
    case 'cancelled':
      return { kind: 'complete', value: { [ending.kind]: ending.reason } };
    case 'failed':
      return { kind: 'fail', message: describeError(ending.error) };
    case 'retried':
      return { kind: 'retry', message: describeError(ending.error), atMs: dueMs };
    case 'parked':
    case 'handed_back':
    case 'lost':
      return { kind: 'later', atMs: dueMs };
    default:
      return assertNever(ending);
  }
}

/** A job put off into the past would come back at once, again and again. */
const SHORTEST_WAIT_MS = 25;

async function answer(decision: Decision, bullJob: Job, token: string | undefined, clock: DatabaseClock) {
  // What is written into BullMQ holds for all workers. Within the tolerated offset it is what our own clock shows then, so
  // that we do not ask too early; a clock that is off by more would put the job off by as much for everybody.
  const localMs = (atMs: number) =>
    clock.trustworthy ? Math.max(Math.ceil(clock.toLocal(atMs)), Date.now() + SHORTEST_WAIT_MS) : Math.ceil(atMs);
  switch (decision.kind) {
    case 'complete':
      return decision.value;
    case 'fail':
      throw new UnrecoverableError(decision.message);
    case 'retry':
      throw new RetryAtError(decision.message, Math.max(0, localMs(decision.atMs) - Date.now()));
    case 'later':
      await bullJob.moveToDelayed(localMs(decision.atMs), token);
      throw new DelayedError();
    default:
      return assertNever(decision);
  }
}

function logAttempt(log: LogOfRun, ending: Ending, times: { queuedMs: number; durationMs: number }): void {
  const level = ending.kind === 'failed' ? 'error' : 'error' in ending ? 'warn' : 'info';
  const fields = {
    ...times,
    outcome: ending.kind,
    ...('reason' in ending ? { reason: ending.reason } : {}),
    ...('delayMs' in ending ? { delayMs: Math.round(ending.delayMs) } : {}),
    ...('error' in ending ? { err: ending.error } : {}),
  };
  log.write(level, fields, 'attempt ended');
}

/** `<row id>-<generation>`; undefined for a job somebody else put into the queue. */
export function parseJobId(jobId: string | undefined): Delivery | undefined {
  const match = /^(\d+)-(\d+)$/.exec(jobId ?? '');
  return match?.[1] && match[2] ? { id: match[1], generation: Number(match[2]) } : undefined;
}

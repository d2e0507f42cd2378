import { lockSync, pause } from './business.ts';
import { claim, isHeldBy, LEASE_SECONDS, SOON_SECONDS, type ClaimedJob, type Ending } from './claim.ts';
import { decideAndTell } from './effects.ts';
import { end, hasOpenCalls } from './functions.ts';
import { isOver, type State, type Transaction } from './postgres.ts';
import type { Delivery } from './queue.ts';
import type { Process, World } from './world.ts';

const MAX_ATTEMPTS = 3;
/** services/worker/src/ending.ts, DECIDE_AFTER_MS and backoffMs. */
const DECIDE_AFTER_SECONDS = 30;
const BACKOFF_SECONDS = 60;

/** One process; it runs one job at a time here. */
export interface Worker {
  tx: Transaction | undefined;
  delivery: Delivery | undefined;
  job: ClaimedJob | undefined;
}

export function newWorker(): Worker {
  return { tx: undefined, delivery: undefined, job: undefined };
}

/** services/worker/src/run-job.ts: claim, handle, end the row, answer BullMQ. */
export function* runJob(world: World, worker: Worker): Process {
  const delivery = (worker.delivery = world.queue.take(world.now));
  if (!delivery) return;
  yield `delivered ${delivery.id}`;
  const verdict = claim(world, delivery.id);
  yield `claim.committed: ${verdict.kind}`;
  switch (verdict.kind) {
    case 'drop':
      return answer(world, delivery, 'completed');
    case 'later':
      return answer(world, delivery, { laterAt: verdict.at });
    case 'run':
      worker.job = verdict.job;
      answer(world, delivery, yield* runClaimed(world, worker, verdict.job));
      worker.job = undefined;
  }
}

function answer(world: World, delivery: Delivery, what: 'completed' | 'failed' | { laterAt: number }): void {
  if (typeof what === 'string') world.watch.bullJobEnded(delivery.id, world.db);
  world.queue.answer(delivery, what);
}

/** services/worker/src/run-job.ts, attemptAndEnd, and what it tells BullMQ: decisionOf. */
function* runClaimed(
  world: World,
  worker: Worker,
  job: ClaimedJob,
): Process<'completed' | 'failed' | { laterAt: number }> {
  const wanted = yield* handle(world, worker, job);
  const ending = wanted === 'committed' ? wanted : yield* endRow(world, job, wanted);
  yield 'finish.committed';
  if (ending === 'lost') return { laterAt: world.now + SOON_SECONDS };
  if (!isOver(job.row)) return { laterAt: job.row.scheduledAt };
  return job.row.state === 'failed' ? 'failed' : 'completed';
}

function* handle(world: World, worker: Worker, job: ClaimedJob): Process<Ending | 'committed'> {
  if (job.row.name === 'pause check') return yield* complete(world, worker, job, checkPause);
  const told = yield* decideAndTell(world, job, MAX_ATTEMPTS);
  const { kind } = told;
  if (kind !== 'completed' && kind !== 'skipped') return told;
  return yield* complete(world, worker, job, function* () {
    yield 'wrote';
    return kind;
  });
}

type Write = (world: World, tx: Transaction, job: ClaimedJob) => Process<'completed' | 'skipped'>;

/** packages/jobs/src/pause-checks/handler.ts. */
const checkPause: Write = function* (world, tx, { row }) {
  yield* lockSync(world, tx, row.key);
  if (!world.db.see(tx, world.db.syncs[row.key]).running) return 'skipped';
  const byOthers = row.cancelRequested;
  yield* pause(world, tx, row.key, row.id);
  tx.onCommit.push(() => world.watch.pausedItself(row, byOthers));
  return 'completed';
};

/** services/worker/src/job-run.ts, complete: domain writes first, the fence last, one transaction. */
function* complete(world: World, worker: Worker, job: ClaimedJob, write: Write): Process<Ending | 'committed'> {
  for (;;) {
    if (job.abort) return job.abort;
    const tx = (worker.tx = world.db.begin(world.now));
    const kind = yield* write(world, tx, job);
    const stop: Ending | 'busy' | undefined = job.abort ?? finish(world, tx, job, { kind }, false);
    if (!stop) {
      yield 'complete.written';
      world.db.commit(tx);
      return 'committed';
    }
    world.db.rollback(tx);
    if (stop !== 'busy') return stop;
    yield 'its row is busy';
  }
}

/** services/worker/src/run-job.ts, hasOpenCalls and endRow: a locked row is asked for again. */
function* endRow(world: World, job: ClaimedJob, wanted: Ending): Process<'ended' | 'lost'> {
  if (wanted.kind === 'lost') return 'lost';
  const undecided = hasOpenCalls(world, job.row.id);
  const ends = wanted.kind === 'failed' || wanted.kind === 'cancelled';
  // services/worker/src/ending.ts, unlessUndecided: it comes back once the provider can tell.
  const ending: Ending = undecided && ends ? { kind: 'parked', seconds: DECIDE_AFTER_SECONDS } : wanted;
  yield 'open calls counted';
  for (;;) {
    const tx = world.db.begin(world.now);
    const stop = finish(world, tx, job, ending, undecided);
    world.db.commit(tx);
    if (!stop) return 'ended';
    if (stop !== 'busy') return 'lost';
    yield 'its row is busy';
  }
}

/** services/worker/src/finish.ts, FINISH. Undefined when it is done. */
function finish(
  world: World,
  tx: Transaction,
  job: ClaimedJob,
  ending: Ending,
  undecided: boolean,
): Ending | 'busy' | undefined {
  if (!isHeldBy(world, job)) return { kind: 'lost' };
  if (world.db.isLocked(job.row, tx)) return 'busy';
  const row = world.db.edit(tx, job.row);
  tx.onCommit.push(() => world.watch.finished(job.row, job.run));
  const waitSeconds = secondsUntilBack(ending, job);
  // Who asked to cancel does not want another attempt, unless one has to find out what became of a call.
  if (waitSeconds !== undefined && row.cancelRequested && !undecided) end(world, tx, row, 'cancelled');
  else if (waitSeconds === undefined) end(world, tx, row, ending.kind as State);
  else {
    row.state = 'published';
    row.lockedUntil = undefined;
    row.scheduledAt = world.now + waitSeconds;
    if (ending.kind === 'parked') row.attempt -= 1;
  }
  return undefined;
}

function secondsUntilBack(ending: Ending, { attempt }: ClaimedJob): number | undefined {
  if (ending.kind === 'parked') return ending.seconds;
  return ending.kind === 'retried' ? BACKOFF_SECONDS * 2 ** (attempt - 1) : undefined;
}

/** services/worker/src/leases.ts, RENEW: whoever lost the row hears of it, and who was cancelled. */
export function renewLease(world: World, { job }: Worker): void {
  if (!job) return;
  const held = isHeldBy(world, job);
  if (!held) job.abort ??= { kind: 'lost' };
  else if (!world.db.isLocked(job.row)) job.row.lockedUntil = world.now + LEASE_SECONDS;
  if (held) lookForCancel(job);
}

/** services/worker/src/leases.ts, FIND_CANCELLED. A run that began cancelled is let find out about its call. */
export function lookForCancel(job: ClaimedJob | undefined): void {
  if (job?.row.run === job?.run && job?.row.cancelRequested && !job.cancelRequested)
    job.abort ??= { kind: 'cancelled' };
}

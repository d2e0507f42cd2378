import { isHeldBy, type ClaimedJob, type Ending } from './claim.ts';
import type { Effect } from './postgres.ts';
import { CALL_SECONDS, SETTLE_SECONDS } from './provider.ts';
import type { Process, World } from './world.ts';

/** services/worker/src/effects.ts, ASK_AGAIN_MS and ASK_FOR_MS. */
const ASK_AGAIN_SECONDS = 30;
const ASK_FOR_SECONDS = 60 * 60;

/** packages/jobs/src/reminders/handler.ts: settle what is open, read the world, make the call, then end. */
export function* decideAndTell(world: World, job: ClaimedJob, maxAttempts: number): Process<Ending> {
  const prefix = `${job.row.name} ${job.row.key} `;
  for (const effect of [...world.db.effects.values()]) {
    if (effect.state !== 'started' || !effect.key.startsWith(prefix)) continue;
    const stop = yield* decide(world, job, effect);
    if (stop) return stop;
  }
  if (job.abort) return job.abort;
  const sync = world.db.syncs[job.row.key];
  const { version, running } = sync;
  world.watch.readWorld(job.row.key, job.run, version, job.cancelRequested);
  yield `world read: version ${version}`;
  if (!running) return { kind: 'skipped' };
  return (yield* tellOnce(world, job, `${prefix}${version}`, maxAttempts)) ?? { kind: 'completed' };
}

/** services/worker/src/effects.ts, EffectLedger.run. Undefined when the ledger knows what became of the call. */
function* tellOnce(world: World, job: ClaimedJob, key: string, maxAttempts: number): Process<Ending | undefined> {
  if (job.abort) return job.abort;
  const earlier = world.db.effects.get(key);
  yield 'ledger read';
  if (earlier?.state === 'started') {
    const stop = yield* decide(world, job, earlier);
    if (stop || world.db.effects.has(key)) return stop;
  } else if (earlier) return undefined;
  if (job.attempt > maxAttempts) return { kind: 'failed' };
  return start(world, job, key) ?? (yield* call(world, job, key, maxAttempts));
}

/** START: committed before the call; locks the row for share, looks at the fence and the cancel request. */
function start(world: World, job: ClaimedJob, key: string): Ending | undefined {
  const { row, run } = job;
  if (world.db.isLocked(row)) return { kind: 'parked', seconds: 1 };
  if (!isHeldBy(world, job)) return { kind: 'lost' };
  if (row.cancelRequested && !world.broken('cancel without re-check')) return { kind: 'cancelled' };
  if (world.db.effects.has(key)) return { kind: 'parked', seconds: ASK_AGAIN_SECONDS };
  const deadlineAt = world.now + CALL_SECONDS;
  world.db.effects.set(key, { key, jobId: row.id, run, state: 'started', startedAt: world.now, deadlineAt });
  world.watch.effectStarted(row, run);
  return undefined;
}

/** EffectLedger.#call. */
function* call(world: World, job: ClaimedJob, key: string, maxAttempts: number): Process<Ending | undefined> {
  const deadlineAt = world.now + CALL_SECONDS;
  yield 'effect.started';
  if (job.abort || world.now >= deadlineAt) {
    forget(world, key, job.run);
    return job.abort ?? { kind: 'parked', seconds: 1 };
  }
  if (world.provider.mood === 'refuses') {
    yield 'refused';
    forget(world, key, job.run);
    return failedAttempt(job, maxAttempts);
  }
  const request = world.provider.send(key, deadlineAt);
  yield 'sent';
  while (!request.arrived && !job.abort && world.now < deadlineAt) yield 'waits for the provider';
  if (job.abort) return job.abort;
  if (!request.arrived) return failedAttempt(job, maxAttempts);
  yield 'effect.called';
  settle(world, key, 'confirmed');
  return undefined;
}

function failedAttempt({ attempt }: ClaimedJob, maxAttempts: number): Ending {
  return { kind: attempt >= maxAttempts ? 'failed' : 'retried' };
}

/** EffectLedger.#decide: only the provider knows. Undefined when it is settled, or as if it had not been started. */
function* decide(world: World, job: ClaimedJob, effect: Effect): Process<Ending | undefined> {
  const found = world.provider.lookUp(effect.key);
  yield `looked up: ${found ?? 'cannot tell'}`;
  if (job.abort) return job.abort;
  if (found) settle(world, effect.key, 'confirmed');
  if (found) return undefined;
  if (found === undefined) {
    if (world.now - effect.startedAt <= ASK_FOR_SECONDS) return { kind: 'parked', seconds: ASK_AGAIN_SECONDS };
    settle(world, effect.key, 'unknown');
    return undefined;
  }
  // "Not found" counts only once no request can still be under way.
  const waitSeconds = effect.deadlineAt + SETTLE_SECONDS - world.now;
  if (waitSeconds > 0 && !world.broken('resend when the look-up says not found (before the settle time)')) {
    return { kind: 'parked', seconds: waitSeconds };
  }
  // FORGET_EARLIER: only the run that holds the row may say so.
  if (isHeldBy(world, job) && !world.db.isLocked(job.row)) forget(world, effect.key, effect.run);
  return undefined;
}

/** SETTLE: what the provider said is true, whoever asked. */
function settle(world: World, key: string, state: 'confirmed' | 'unknown'): void {
  const effect = world.db.effects.get(key);
  if (effect?.state === 'started') effect.state = state;
}

/** FORGET. */
function forget(world: World, key: string, run: number): void {
  const effect = world.db.effects.get(key);
  if (effect?.state === 'started' && effect.run === run) world.db.effects.delete(key);
}

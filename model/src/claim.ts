import { end, isPast, UNIQUE } from './functions.ts';
import { isOver, type Row } from './postgres.ts';
import type { World } from './world.ts';

/** services/worker/src/config.ts, LEASE_MS. */
export const LEASE_SECONDS = 15;
/** services/worker/src/claim.ts, BUSY_RETRY_MS, rounded up; run-job.ts, LOST_RETRY_MS. */
export const SOON_SECONDS = 1;
/** services/worker/src/claim.ts has 10: here fewer, so that it happens. */
const MAX_INTERRUPTIONS = 3;

/** A row as its claim left it. */
export interface ClaimedJob {
  readonly row: Row;
  readonly run: number;
  readonly attempt: number;
  readonly cancelRequested: boolean;
  /** Set by the lease keeper; every call of the handler then ends with it. */
  abort: Ending | undefined;
}

/** services/worker/src/ending.ts. */
export type Ending =
  { kind: 'completed' | 'skipped' | 'failed' | 'cancelled' | 'retried' | 'lost' } | { kind: 'parked'; seconds: number };

export type Verdict = { kind: 'run'; job: ClaimedJob } | { kind: 'later'; at: number } | { kind: 'drop' };

/** services/worker/src/claim.ts, CLAIM and verdictOf. */
export function claim(world: World, bullId: string): Verdict {
  const [id, generation] = bullId.split('-').map(Number);
  const row = id === undefined ? undefined : world.db.find(id);
  if (row?.generation !== generation || !row || isOver(row)) return { kind: 'drop' };
  if (row.state === 'pending' && world.broken('claim only published')) return { kind: 'drop' };
  if (row.state !== 'active' && row.scheduledAt > world.now) return { kind: 'later', at: row.scheduledAt };
  if (row.state === 'active' && !isPast(world, row.lockedUntil)) {
    if (world.broken('complete a redelivered job whose row is still active')) return { kind: 'drop' };
    return { kind: 'later', at: Math.max(row.lockedUntil ?? 0, world.now + SOON_SECONDS) };
  }
  if (world.db.isLocked(row)) return { kind: 'later', at: world.now + SOON_SECONDS };

  const tx = world.db.begin(world.now);
  const claimed = world.db.edit(tx, row);
  const interrupted = row.state === 'active';
  if (interrupted) claimed.interruptions += 1;
  if (claimed.interruptions > MAX_INTERRUPTIONS) {
    end(world, tx, claimed, 'failed');
    world.db.commit(tx);
    return { kind: 'drop' };
  }
  claimed.state = 'active';
  claimed.run = world.db.nextRun();
  if (!interrupted) claimed.attempt += 1;
  claimed.lockedUntil = world.now + LEASE_SECONDS;
  claimed.startedAt = world.watch.moment;
  claimed.publishedEpoch ??= world.db.queue.epoch;
  if (UNIQUE[row.name] === 'waiting') claimed.holdsKey = false;
  // This run reads the world as it is from now on; but one that is cancelled does not act on it.
  if (!row.cancelRequested) claimed.rerun = false;
  world.db.commit(tx);
  world.watch.claimed(row, row.run);
  const { run, attempt, cancelRequested } = row;
  return { kind: 'run', job: { row, run, attempt, cancelRequested, abort: undefined } };
}

/** The fence: who may end the row, or start an effect of it. */
export function isHeldBy(world: World, { row, run, attempt }: ClaimedJob): boolean {
  if (row.state !== 'active') return false;
  if (world.broken('rescue by age without a fence')) return true;
  if (world.broken('fence by attempt number')) return row.attempt === attempt;
  return row.run === run;
}

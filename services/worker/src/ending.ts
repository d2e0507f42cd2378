import {
  assertNever,
  EffectUndecidedError,
  JobCancelledError,
  LeaseLostError,
  OutboxError,
  PermanentError,
  RateLimitedError,
  SECOND,
  type Outcome,
} from '@outbox/core';
import type { ClaimedJob } from './claim.ts';

/** How one run of a row ends, in the row's words. */
export type Ending =
  | { kind: 'completed'; result: unknown }
  | { kind: 'skipped'; reason: string; result: unknown }
  | { kind: 'failed'; reason: string; error: unknown }
  | { kind: 'cancelled'; reason: string }
  /** Another attempt after `delayMs`. */
  | { kind: 'retried'; delayMs: number; error: unknown }
  /** Not this attempt's fault: the same attempt again after `delayMs`. */
  | { kind: 'parked'; delayMs: number; error: unknown; reason?: string }
  /** The process stops: the same attempt again, at once, by another worker. */
  | { kind: 'handed_back' }
  /** Another run holds the row; there is nothing to write. */
  | { kind: 'lost' };

/** The process is asked to stop and its patience is over: running jobs go back. */
export class HandedBackError extends Error {}

/**
 * This worker does not know the job, or not this shape of its payload: in a rolling deploy another, newer one does. Only
 * a person fails such a row.
 */
export class TooOldError extends OutboxError {
  readonly code: 'unknown_job' | 'invalid_payload';

  constructor(message: string, code: TooOldError['code']) {
    super(message);
    this.code = code;
  }
}

/** A rolling deploy takes minutes; by then a worker that knows the job has it. */
const TOO_OLD_RETRY_MS = 30 * SECOND;

export function endingOf(outcome: Outcome): Extract<Ending, { kind: 'completed' | 'skipped' }> {
  switch (outcome.kind) {
    case 'done':
      return { kind: 'completed', result: outcome.result };
    case 'skipped':
      return { kind: 'skipped', reason: outcome.reason, result: outcome.result };
    default:
      return assertNever(outcome);
  }
}

/** How an earlier call ended this very run, from what it noted in outbox.attempts. */
export function endingOfRecord(outcome: string, reason: string | null): Ending {
  const why = reason ?? '';
  switch (outcome) {
    case 'completed':
      return { kind: 'completed', result: undefined };
    case 'skipped':
      return { kind: 'skipped', reason: why, result: undefined };
    case 'failed':
      return { kind: 'failed', reason: why, error: new Error(why) };
    case 'cancelled':
      return { kind: 'cancelled', reason: why };
    case 'retried':
    case 'parked':
    case 'handed_back':
      return { kind: 'handed_back' };
    default:
      return { kind: 'lost' };
  }
}

/** What an error thrown by the handler means for the row. `random` is in [0, 1). */
export function endingOfError(error: unknown, job: ClaimedJob, random: () => number = Math.random): Ending {
  if (error instanceof LeaseLostError) return { kind: 'lost' };
  if (error instanceof HandedBackError) return { kind: 'handed_back' };
  if (error instanceof JobCancelledError) return { kind: 'cancelled', reason: 'cancelled_while_running' };
  if (error instanceof RateLimitedError || error instanceof EffectUndecidedError) {
    return { kind: 'parked', delayMs: error.retryAfterMs, error };
  }
  if (error instanceof TooOldError) return { kind: 'parked', delayMs: TOO_OLD_RETRY_MS, error, reason: error.code };
  if (error instanceof PermanentError) return { kind: 'failed', reason: error.code, error };
  if (job.attempt >= job.maxAttempts) return { kind: 'failed', reason: 'attempts_spent', error };
  return { kind: 'retried', delayMs: backoffMs(job, random()), error };
}

/**
 * A row must not end while a call of its may still turn out to have been carried out: it comes back once more than it has
 * attempts, when the provider can tell.
 */
export function unlessUndecided(ending: Ending, undecided: boolean): Ending {
  if (!undecided || (ending.kind !== 'failed' && ending.kind !== 'cancelled')) return ending;
  const error = ending.kind === 'failed' ? ending.error : new Error('Cancelled while a call was under way.');
  return { kind: 'retried', delayMs: DECIDE_AFTER_MS, error };
}

/** Longer than a call and the time a late request takes to arrive (effects.ts). */
const DECIDE_AFTER_MS = 30 * SECOND;

/** Wait after attempt n: `backoffMs * 2^(n - 1)` (or always `backoffMs`), plus up to `backoffJitter` of it, never less. */
export function backoffMs(
  job: Pick<ClaimedJob, 'attempt' | 'backoffType' | 'backoffMs' | 'backoffJitter'>,
  random: number,
): number {
  const doublings = job.backoffType === 'exponential' ? Math.max(0, job.attempt - 1) : 0;
  const base = job.backoffMs * 2 ** doublings;
  return Math.round(base * (1 + job.backoffJitter * random));
}

import { setTimeout as wait } from 'node:timers/promises';
import { isConnectionError, isContention } from '@outbox/core';

const FIRST_WAIT_MS = 50;
const LONGEST_WAIT_MS = 2_000;

export interface UntilItWorksOptions {
  /** Default: Postgres was away, or somebody was in the way. */
  isWorthRepeating?: (error: unknown) => boolean;
  /** Ends the repetition with its reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Repeats `work` until it succeeds or fails for a reason that repeating cannot mend, waiting 50 ms to 2 s in between. A
 * row whose end cannot be written now is not given back to BullMQ: it would count a failure that never was.
 */
export async function untilItWorks<T>(work: () => Promise<T>, options: UntilItWorksOptions = {}): Promise<T> {
  const { signal, isWorthRepeating = isTransient } = options;
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS)) {
    signal?.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      if (!isWorthRepeating(error)) throw error;
      await wait(waitMs);
    }
  }
}

/** Repeating the statement or transaction may well succeed, whatever it was. */
export function isTransient(error: unknown): boolean {
  return isConnectionError(error) || isContention(error);
}

import { setTimeout as wait } from 'node:timers/promises';

const FIRST_WAIT_MS = 50;
const LONGEST_WAIT_MS = 2_000;

export interface UntilItWorksOptions {
  isWorthRepeating: (error: unknown) => boolean;
  /** Ends the repetition with its reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Repeats `work` until it succeeds or fails for a reason that repeating cannot mend, waiting 50 ms to 2 s in between. A
 * row whose end cannot be written now is not given back to BullMQ: it would count a failure that never was.
 */
export async function untilItWorks<T>(work: () => Promise<T>, options: UntilItWorksOptions): Promise<T> {
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS)) {
    options.signal?.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      if (!options.isWorthRepeating(error)) throw error;
      await wait(waitMs);
    }
  }
}

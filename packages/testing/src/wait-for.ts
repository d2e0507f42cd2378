import { setTimeout as sleep } from 'node:timers/promises';
import { SECOND } from '@outbox/core';

export interface WaitOptions {
  timeoutMs?: number;
  intervalMs?: number;
}

/**
 * Repeats `assertion` every `intervalMs` (10) until it does not throw, and returns what it returns. After `timeoutMs`
 * (5000) it throws the last error.
 */
export async function waitFor<T>(assertion: () => T | Promise<T>, options: WaitOptions = {}): Promise<T> {
  const { timeoutMs = 5 * SECOND, intervalMs = 10 } = options;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await assertion();
    } catch (error) {
      if (performance.now() >= deadline) throw error;
    }
    await sleep(intervalMs);
  }
}

import { isConnectionError, SECOND, type Logger } from '@outbox/core';

/** So many errors without a job in between are no accident of one job. */
const ERRORS_TO_STOP = 3;
const WITHIN_MS = 1 * SECOND;

const FIRST_WAIT_MS = 1 * SECOND;
const LONGEST_WAIT_MS = 30 * SECOND;
const JITTER = 0.25;

/** Without an error for so long after a wait, all is well again. */
const PROVEN_MS = 5 * SECOND;

/** Errors that stop nothing (a connection broke: ioredis waits by itself) are told as often, each with their number. */
const TELL_EVERY_MS = 10 * SECOND;

/**
 * Keeps one queue's worker from asking a queue backend again and again that answers, but refuses: a full Redis, a primary
 * that became a replica, a script that fails. BullMQ asks again at once (thousands of times a second).
 *
 *   well ──3 errors in a second, no job in between──▶ waiting 1 s ──▶ trying ──5 s without an error, or a job──▶ well
 *                                                        ▲              │
 *                                                        └──an error────┘ waiting twice as long, at most 30 s, and up to
 *                                                                         a quarter more
 *
 * One line is logged for each wait.
 */
export class ErrorBackoff {
  readonly #log: Logger;
  readonly #onChange: () => void;
  readonly #random: () => number;
  #state: 'well' | 'waiting' | 'trying' = 'well';
  #errors: number[] = [];
  #untold = 0;
  #toldAt = -Infinity;
  #waitMs = FIRST_WAIT_MS;
  #timer: NodeJS.Timeout | undefined;

  /** `onChange` is called when a wait begins and when it ends. */
  constructor(log: Logger, onChange: () => void, random: () => number = Math.random) {
    this.#log = log;
    this.#onChange = onChange;
    this.#random = random;
  }

  /** True while the worker is to leave the backend alone. */
  get waiting(): boolean {
    return this.#state === 'waiting';
  }

  failed(err: Error, now = performance.now()): void {
    this.#untold += 1;
    if (this.waiting) return;
    if (isAway(err)) return this.#tell(err, now);
    this.#errors = [...this.#errors.filter((at) => at > now - WITHIN_MS), now];
    if (this.#state === 'trying' || this.#errors.length >= ERRORS_TO_STOP) this.#wait(err);
    else this.#tell(err, now);
  }

  /** A job was taken. It may have been under way when the wait began, and proves as much. */
  worked(): void {
    this.#errors = [];
    if (this.#state === 'well') return;
    this.#recover();
    this.#onChange();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #wait(err: Error): void {
    const waitMs = Math.round(this.#waitMs * (1 + JITTER * this.#random()));
    this.#log.warn({ err, errors: this.#untold, waitMs }, 'queue backend refuses, waiting');
    this.#untold = 0;
    this.#errors = [];
    this.#waitMs = Math.min(this.#waitMs * 2, LONGEST_WAIT_MS);
    this.#become('waiting', waitMs, () => this.#try());
    this.#onChange();
  }

  #try(): void {
    this.#untold = 0;
    this.#become('trying', PROVEN_MS, () => this.#recover());
    this.#onChange();
  }

  #recover(): void {
    clearTimeout(this.#timer);
    this.#state = 'well';
    this.#waitMs = FIRST_WAIT_MS;
    this.#log.info('queue backend takes commands again');
  }

  #become(state: 'waiting' | 'trying', forMs: number, then: () => void): void {
    clearTimeout(this.#timer);
    this.#state = state;
    this.#timer = setTimeout(then, forMs);
  }

  #tell(err: Error, now: number): void {
    if (now - this.#toldAt < TELL_EVERY_MS) return;
    this.#log.warn({ err, errors: this.#untold }, 'worker error');
    this.#toldAt = now;
    this.#untold = 0;
  }
}

/** Nobody answers, or not any more: ioredis and pg reconnect at their own pace. */
function isAway(err: Error): boolean {
  return isConnectionError(err) || /Connection is closed|Socket timeout|Socket closed/i.test(err.message);
}

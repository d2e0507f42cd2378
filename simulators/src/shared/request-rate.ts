import { MINUTE } from '@outbox/core';

/** How many requests come in any 60 s: the window slides, it does not start anew with each minute of the clock. */
export class RequestRate {
  readonly #now: () => number;
  /** When each of the last 60 s came, oldest first; those before `#first` are out of the window. */
  #times: number[] = [];
  #first = 0;
  #highest = 0;

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  add(): void {
    this.#times.push(this.#now());
    this.#highest = Math.max(this.#highest, this.perMinute);
  }

  /** How many came in the 60 s before now. */
  get perMinute(): number {
    const windowStart = this.#now() - MINUTE;
    while ((this.#times[this.#first] ?? Infinity) <= windowStart) this.#first += 1;
    this.#dropPast();
    return this.#times.length - this.#first;
  }

  /** The most that any 60 s saw. */
  get highestPerMinute(): number {
    return this.#highest;
  }

  clear(): void {
    this.#times = [];
    this.#first = 0;
    this.#highest = 0;
  }

  /** Moved rarely, so that counting stays cheap. */
  #dropPast(): void {
    if (this.#first < 1_000) return;
    this.#times = this.#times.slice(this.#first);
    this.#first = 0;
  }
}

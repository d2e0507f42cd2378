import { SECOND } from './durations.ts';
import type { Pool } from './postgres.ts';

/** Beyond this a process must not judge what is due: it would run jobs early or late. */
export const MAX_CLOCK_OFFSET_MS = 1 * SECOND;

const MEASURE_EVERY_MS = 15 * SECOND;

/** A slower answer says too little: the error may be half of it. */
const LONGEST_ROUND_TRIP_MS = 250;

/**
 * The database's clock, the only one that decides when something is due. Measured at start and every 15 s; the error is at
 * most half a round trip, and a round trip over 250 ms does not count. In between it goes on with a clock that nobody can
 * set, so a step of this machine's time of day shows at once, and not at the next measurement.
 */
export class DatabaseClock {
  /** Database time, epoch milliseconds, at the zero of performance.now(). Until it is measured this machine's is taken. */
  #originMs = Date.now() - performance.now();
  readonly #pool: Pool;
  readonly #onError: (error: unknown) => void;
  readonly #localNow: () => number;
  #timer: NodeJS.Timeout | undefined;

  /** `localNow` is this machine's time of day, epoch milliseconds. */
  constructor(pool: Pool, onError: (error: unknown) => void, localNow = () => Date.now()) {
    this.#pool = pool;
    this.#onError = onError;
    this.#localNow = localNow;
  }

  async start(): Promise<void> {
    await this.measure();
    this.#timer = setInterval(() => void this.measure().catch(this.#onError), MEASURE_EVERY_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** The time spent waiting for a connection is not part of the round trip. */
  async measure(): Promise<void> {
    const client = await this.#pool.connect();
    try {
      const before = performance.now();
      const { rows } = await client.query<{ now: number }>(
        'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
      );
      const after = performance.now();
      const now = rows[0]?.now;
      if (now === undefined || after - before > LONGEST_ROUND_TRIP_MS) return;
      this.#originMs = now - (before + after) / 2;
    } finally {
      client.release();
    }
  }

  /** Database time minus this machine's, milliseconds. */
  get offsetMs(): number {
    return this.now() - this.#localNow();
  }

  /** False when this machine's clock is no good for judging what is due. */
  get trustworthy(): boolean {
    return Math.abs(this.offsetMs) <= MAX_CLOCK_OFFSET_MS;
  }

  /** Epoch milliseconds by the database's clock. */
  now(): number {
    return this.#originMs + performance.now();
  }

  /** What this process's clock will show at database instant `epochMs`. */
  toLocal(epochMs: number): number {
    return epochMs - this.offsetMs;
  }
}

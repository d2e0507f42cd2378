import { SECOND } from './durations.ts';
import type { Pool } from './postgres.ts';

/** Beyond this a process must not judge what is due: it would run jobs early or late. */
export const MAX_CLOCK_OFFSET_MS = 1 * SECOND;

const MEASURE_EVERY_MS = 15 * SECOND;

/** A slower answer says too little: the error may be half of it. */
const LONGEST_ROUND_TRIP_MS = 250;

/**
 * The database's clock, the only one that decides when something is due. Measured against this process's clock at start
 * and every 15 s; the error is at most half a round trip, and a round trip over 250 ms does not count.
 */
export class DatabaseClock {
  /** Database time minus local time, milliseconds. */
  offsetMs = 0;
  readonly #pool: Pool;
  readonly #onError: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(pool: Pool, onError: (error: unknown) => void) {
    this.#pool = pool;
    this.#onError = onError;
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
      const before = Date.now();
      const { rows } = await client.query<{ now: number }>(
        'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
      );
      const after = Date.now();
      if (after - before > LONGEST_ROUND_TRIP_MS) return;
      this.offsetMs = (rows[0]?.now ?? after) - (before + after) / 2;
    } finally {
      client.release();
    }
  }

  get trustworthy(): boolean {
    return Math.abs(this.offsetMs) <= MAX_CLOCK_OFFSET_MS;
  }

  /** Epoch milliseconds by the database's clock. */
  now(): number {
    return Date.now() + this.offsetMs;
  }

  /** What this process's clock will show at database instant `epochMs`. */
  toLocal(epochMs: number): number {
    return epochMs - this.offsetMs;
  }
}

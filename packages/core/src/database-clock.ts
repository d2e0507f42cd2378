import { SECOND } from './durations.ts';
import type { Queryable } from './postgres.ts';

/** Beyond this a process must not judge what is due: it would run jobs early or late. */
export const MAX_CLOCK_OFFSET_MS = 1 * SECOND;

const MEASURE_EVERY_MS = 15 * SECOND;

/**
 * The database's clock, the only one that decides when something is due. Measured against this process's clock at start
 * and every 15 s; the error is at most half a round trip.
 */
export class DatabaseClock {
  /** Database time minus local time, milliseconds. */
  offsetMs = 0;
  readonly #db: Queryable;
  readonly #onError: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Queryable, onError: (error: unknown) => void) {
    this.#db = db;
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

  async measure(): Promise<void> {
    const before = Date.now();
    const { rows } = await this.#db.query<{ now: number }>(
      'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
    );
    const after = Date.now();
    this.offsetMs = (rows[0]?.now ?? after) - (before + after) / 2;
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

import { setTimeout as wait } from 'node:timers/promises';
import type { Pool } from '@outbox/core';

const LOOK_EVERY_MS = 200;

/** Open jobs that should have been run before this instant are left behind by whatever happened until then. */
const OLDEST_OPEN = /* sql */ `
  select extract(epoch from scheduled_at)::float8 * 1000 as "dueAt"
  from outbox.jobs
  where finished_at is null
  order by scheduled_at
  limit 1`;

interface Waiting {
  endedAt: number;
  recovered: (ms: number) => void;
}

/**
 * Measures how long it takes from the end of a fault until every job that was due by then has been run, or has been given
 * a later time by its own row. Faults overlap, so this is what the whole system needed, not one fault alone.
 */
export class Recovery {
  readonly #pool: Pool;
  #waiting: Waiting[] = [];
  #stopped = false;
  #running: Promise<void> | undefined;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  start(): void {
    this.#running ??= this.#watch();
  }

  /** Calls `recovered` once, with milliseconds, unless it is stopped before. */
  of(endedAt: number, recovered: (ms: number) => void): void {
    this.#waiting.push({ endedAt, recovered });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** Faults whose end the outbox has not got over yet. */
  get open(): number {
    return this.#waiting.length;
  }

  async #watch(): Promise<void> {
    while (!this.#stopped) {
      await this.#look().catch(() => undefined); // Postgres may be what was broken
      await wait(LOOK_EVERY_MS);
    }
  }

  async #look(): Promise<void> {
    if (this.#waiting.length === 0) return;
    const { rows } = await this.#pool.query<{ dueAt: number }>(OLDEST_OPEN);
    const now = Date.now();
    const dueAt = rows[0]?.dueAt ?? Infinity;
    const isOver = ({ endedAt }: Waiting) => endedAt < dueAt;
    for (const { endedAt, recovered } of this.#waiting.filter(isOver)) recovered(now - endedAt);
    this.#waiting = this.#waiting.filter((each) => !isOver(each));
  }
}

import { SECOND, type Logger, type Queryable } from '@outbox/core';

const LOOK_EVERY_MS = 2 * SECOND;

const READ = /* sql */ `
  select restore_counter as counter, coalesce(extract(epoch from restored_at), 0)::float8 as "setRightAt"
  from outbox.meta
  limit 1`;

/**
 * Notices that the database was restored to an older state: outbox.meta.restore_counter only grows, so a statement that
 * finds less than an earlier one found has met an older database. This worker then takes no jobs, for those it would claim
 * may have run in the time that was lost, until a person has said that work may go on (restored_at).
 */
export class RestoreWatch {
  readonly #db: Queryable;
  readonly #log: Logger;
  #highest = 0n;
  #setRightAt = 0;
  #restored = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Queryable, log: Logger) {
    this.#db = db;
    this.#log = log;
  }

  async start(): Promise<void> {
    await this.look();
    this.#timer = setInterval(() => {
      this.look().catch((err: unknown) => this.#log.debug({ err }, 'restore counter not read'));
    }, LOOK_EVERY_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** The highest counter seen so far: a statement that is sent now must not find less. */
  get highest(): string {
    return this.#highest.toString();
  }

  /** True while the database is older than one that this process has seen. */
  get restored(): boolean {
    return this.#restored;
  }

  async look(): Promise<void> {
    const { highest } = this;
    const { rows } = await this.#db.query<{ counter: string; setRightAt: number }>(READ);
    const [meta] = rows;
    if (!meta) return;
    if (meta.setRightAt > this.#setRightAt) this.#setRight(meta.counter, meta.setRightAt);
    else this.found(meta.counter, highest);
  }

  /**
   * What a statement read, and the highest counter when it was sent. Answers may overtake each other: one that is older
   * than another answer, but not than its own question, is no older database. True when all is well.
   */
  found(counter: string, expected: string): boolean {
    if (BigInt(counter) > this.#highest) this.#highest = BigInt(counter);
    if (BigInt(counter) >= BigInt(expected)) return true;
    if (!this.#restored) {
      this.#log.error({ counter, expected }, 'database was restored to an older state, taking no jobs');
    }
    this.#restored = true;
    return false;
  }

  #setRight(counter: string, setRightAt: number): void {
    if (this.#restored) this.#log.info({ counter }, 'restored database was set right, taking jobs again');
    this.#restored = false;
    this.#highest = BigInt(counter);
    this.#setRightAt = setRightAt;
  }
}

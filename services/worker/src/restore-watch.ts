import { SECOND, type Logger, type Queryable, type QueueBackend } from '@outbox/core';

const LOOK_EVERY_MS = 1 * SECOND;

const READ = /* sql */ `
  select restore_counter as counter, coalesce(extract(epoch from restored_at), 0)::float8 as "setRightAt"
  from outbox.meta
  limit 1`;

export interface RestoreWatchOptions {
  db: Queryable;
  backend: Pick<QueueBackend, 'readCounter'>;
  log: Logger;
}

/**
 * Notices that the database was restored to an older state: outbox.meta.restore_counter only grows, so a statement that
 * finds less than an earlier one found has met an older database. So has one that finds less than the queue backend kept
 * (every number was committed before it came there): a worker that started after the restore has seen nothing itself. This
 * worker then takes no jobs, for those it would claim may have run in the time that was lost, until a person has said that
 * work may go on (restored_at). A backend that is away or has lost the number says nothing.
 */
export class RestoreWatch {
  readonly #db: Queryable;
  readonly #backend: Pick<QueueBackend, 'readCounter'>;
  readonly #log: Logger;
  #highest = 0n;
  #setRightAt = 0;
  #restored = false;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;

  constructor({ db, backend, log }: RestoreWatchOptions) {
    this.#db = db;
    this.#backend = backend;
    this.#log = log;
  }

  /** Resolves after the first look: no job is taken before. Rejects when Postgres does not answer it. */
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

  /** One at a time: looks that wait for a silent Postgres must not take up its connections. */
  look(): Promise<void> {
    this.#looking ??= this.#lookOnce().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #lookOnce(): Promise<void> {
    // The backend first: read after Postgres, it could hold a number that was counted in between.
    const inBackend = await this.#backend.readCounter().catch(() => undefined);
    const { highest } = this;
    const { rows } = await this.#db.query<{ counter: string; setRightAt: number }>(READ);
    const [meta] = rows;
    if (!meta) return;
    if (meta.setRightAt > this.#setRightAt) this.#setRight(meta.counter, meta.setRightAt);
    else this.found(meta.counter, highest);
    if (inBackend !== undefined) this.#compareWith(inBackend, meta.counter);
  }

  /** What the backend has seen counts as seen here: claims, too, must not find less from now on. */
  #compareWith(inBackend: string, counter: string): void {
    if (BigInt(inBackend) > this.#highest) this.#highest = BigInt(inBackend);
    this.found(counter, inBackend);
  }

  /**
   * What a statement read, and the highest counter when it was sent. Answers may overtake each other: one that is older
   * than another answer, but not than its own question, is no older database; neither is one to a question from before
   * the database was set right, which alone makes the highest counter smaller. True when the answer may be acted on.
   */
  found(counter: string, expected: string): boolean {
    if (BigInt(counter) > this.#highest) this.#highest = BigInt(counter);
    if (BigInt(counter) >= BigInt(expected)) return true;
    if (BigInt(expected) > this.#highest) return false;
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

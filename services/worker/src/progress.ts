import { SECOND, type Logger, type Queryable } from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import { toJson } from './finish.ts';

/** A handler may report every item of a thousand; a person looks once a second at most. */
const WRITE_EVERY_MS = 1 * SECOND;

/** Fenced like everything of a run. A row that somebody has locked is left alone: the next value, or the end, comes. */
const WRITE = /* sql */ `
  with held as (
    select j.id
    from outbox.jobs j
    where j.id = $1 and j.run = $2 and j.state = 'active'
    for no key update skip locked
  )
  update outbox.jobs j
  set progress = $3::jsonb
  from held h
  where j.id = h.id`;

export interface ProgressOptions {
  signal: AbortSignal;
  /** Its logger is made at the first use. */
  log: { readonly logger: Logger };
}

/**
 * How far one run is. The first value is written at once, later ones a second after the write before, each time the
 * newest. What is not written yet when the run ends goes into the statement that ends it.
 */
export class Progress {
  readonly #db: Queryable;
  readonly #job: ClaimedJob;
  readonly #signal: AbortSignal;
  readonly #log: ProgressOptions['log'];
  #unwritten: { value: unknown } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #writing = false;

  constructor(db: Queryable, job: ClaimedJob, { signal, log }: ProgressOptions) {
    this.#db = db;
    this.#job = job;
    this.#signal = signal;
    this.#log = log;
  }

  get unwritten(): unknown {
    return this.#unwritten?.value;
  }

  report(value: unknown): void {
    if (this.#signal.aborted) return;
    this.#unwritten = { value };
    if (!this.#timer && !this.#writing) void this.#write();
  }

  async #write(): Promise<void> {
    const written = this.#unwritten;
    this.#timer = undefined;
    if (!written || this.#signal.aborted) return;
    this.#writing = true;
    try {
      const { rowCount } = await this.#db.query(WRITE, [this.#job.id, this.#job.run, toJson(written.value)]);
      if (rowCount === 1 && this.#unwritten === written) this.#unwritten = undefined;
    } catch (err) {
      this.#log.logger.debug({ err }, 'progress not written');
    } finally {
      this.#writing = false;
      if (!this.#signal.aborted) this.#timer = setTimeout(() => void this.#write(), WRITE_EVERY_MS).unref();
    }
  }
}

import type { Logger, Pool, QueueBackend } from '@outbox/core';

/** Compares and counts in one statement: a database that is put back in between does not grow past what the backend saw. */
const COUNT = /* sql */ `
  update outbox.meta
  set restore_counter = restore_counter + 1, counted_at = clock_timestamp()
  where restore_counter >= $1
  returning restore_counter as counter`;

export const RESTORED = 'this database was restored to an older state: run `npm run outbox -- resume --after-restore`';
const NOT_COMPARED = 'not yet known whether this database was restored to an older state';

const READ = /* sql */ `
  select restore_counter < $1 as behind from outbox.meta limit 1`;

/** Whether the backend has seen a higher counter than Postgres has. Changes nothing. */
export async function isBehindBackend(pool: Pool, backend: QueueBackend): Promise<boolean> {
  const { rows } = await pool.query<{ behind: boolean }>(READ, [(await backend.readCounter()) ?? '0']);
  return rows[0]?.behind ?? false;
}

/**
 * Notices a database that was restored to an older state, or failed over and lost its newest transactions. A counter grows
 * in Postgres about once a second, and is then written to the queue backend. The backend is read first, and every number
 * it gets was committed before: a higher one there than in Postgres means that Postgres has gone back, whoever else counts
 * meanwhile. A backend that has lost the number says nothing.
 */
export class RestoreGuard {
  /** Why nothing may be published, admitted, removed, pruned or reconciled; undefined when all is well. */
  problem: string | undefined = NOT_COMPARED;
  readonly #pool: Pool;
  readonly #backend: QueueBackend;
  readonly #log: Logger;

  constructor({ pool, backend, log }: { pool: Pool; backend: QueueBackend; log: Logger }) {
    this.#pool = pool;
    this.#backend = backend;
    this.#log = log;
  }

  /** Compares, and counts on. Rejects, and changes its mind about nothing, when either side does not answer. */
  async look(): Promise<void> {
    const inBackend = await this.#backend.readCounter();
    const { rows } = await this.#pool.query<{ counter: string }>(COUNT, [inBackend ?? '0']);
    const [counted] = rows;
    if (!counted) {
      if (this.problem !== RESTORED) this.#log.error({ inBackend }, 'database was restored to an older state, stopped');
      this.problem = RESTORED;
      return;
    }
    if (this.problem === RESTORED) this.#log.info({ counter: counted.counter }, 'restored database was set right');
    this.problem = undefined;
    await this.#backend.writeCounter(counted.counter);
  }
}

import { MINUTE, Repeater, type Logger, type Pool } from '@outbox/core';

/** Small enough that a delete is over in milliseconds and never meets a worker's statement for long. */
const BATCH = 500;

/**
 * BullMQ keeps a finished job for a day at most (publish.ts). A row outlives that, whatever retention an operator asked
 * for: a job of a row that is gone could not be told from one that was never ours.
 *
 * The first condition is a bound that can be looked up in the index: nothing of the history is read that no retention could
 * have ended yet. (clock_timestamp() cannot be looked up: a look then read the whole history.)
 */
const PRUNE_JOBS = /* sql */ `
  with expired as (
    select j.id
    from outbox.jobs j
    join outbox.job_types t on t.name = j.name
    where j.finished_at < now() - (
        select greatest(
          interval '25 hours',
          min(
            least(coalesce(s.operator_retention, s.retention), coalesce(s.operator_failed_retention, s.failed_retention))
          )
        )
        from outbox.job_types s
      )
      and j.finished_at < now() - case j.state
        when 'failed' then coalesce(t.operator_failed_retention, t.failed_retention)
        else coalesce(t.operator_retention, t.retention)
      end
    order by j.finished_at
    limit ${BATCH}
    for update of j skip locked
  ),
  attempts as (
    delete from outbox.attempts a using expired e where a.job_id = e.id
  ),
  idempotency_keys as (
    delete from outbox.idempotency_keys k using expired e where k.job_id = e.id
  )
  delete from outbox.jobs j using expired e where j.id = e.id`;

/** The ledger of calls that must not happen twice outlives the jobs by far; what nobody could tell stays for ever. */
const PRUNE_EFFECTS = /* sql */ `
  delete from outbox.effects e
  where e.id in (
    select s.id
    from outbox.effects s
    where s.settled_at < now() - interval '400 days' and s.state in ('confirmed', 'rejected')
    limit ${BATCH}
  )`;

/**
 * Deletes up to 500 rows whose retention is over (outbox.job_types), with their attempts, and up to 500 old entries of the
 * effect ledger; returns how many rows of outbox.jobs. Bridges may prune side by side. A crash leaves rows for the next.
 */
export async function pruneBatch(pool: Pool): Promise<number> {
  await pool.query(PRUNE_EFFECTS);
  const { rowCount } = await pool.query(PRUNE_JOBS);
  return rowCount ?? 0;
}

const PRUNE_EVERY_MS = 1 * MINUTE;

export interface PrunerOptions {
  pool: Pool;
  /** Says why nothing may be deleted now; undefined when all is well. */
  heldBy: () => string | undefined;
  log: Logger;
}

/** Prunes once a minute, batch after batch until nothing is left to prune. */
export class Pruner {
  readonly #options: PrunerOptions;
  readonly #repeater: Repeater;
  #stopped = false;

  constructor(options: PrunerOptions) {
    this.#options = options;
    const { log } = options;
    this.#repeater = new Repeater({
      everyMs: PRUNE_EVERY_MS,
      log,
      failure: 'prune failed',
      work: () => this.#prune(),
    });
  }

  /** The first time is at once: resolves when it is over. */
  async start(): Promise<void> {
    await this.#repeater.start();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#repeater.stop();
  }

  async #prune(): Promise<void> {
    const { pool, heldBy, log } = this.#options;
    let total = 0;
    for (let pruned = BATCH; pruned === BATCH && !this.#stopped && heldBy() === undefined; total += pruned) {
      pruned = await pruneBatch(pool);
    }
    if (total > 0) log.info({ pruned: total }, 'finished rows pruned');
  }
}

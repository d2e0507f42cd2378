import {
  enqueue,
  isConnectionError,
  isContention,
  LeaseLostError,
  withTransaction,
  type JobContext,
  type JobDefinition,
  type JobTransaction,
  type Logger,
  type Outcome,
  type Pool,
  type PoolClient,
  type Queryable,
} from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import { EffectLedger } from './effects.ts';
import { endingOf, type Ending } from './ending.ts';
import { finishAll, type FinishResult } from './finish.ts';
import { untilItWorks } from './until-it-works.ts';

/** The row was locked by another transaction when this one wanted to end it: roll back and do it all again. */
class RowBusyError extends Error {}

/**
 * One run of a claimed row as its handler sees it. After an abort every call throws the reason, so a handler that ignores
 * its signal cannot act any more. Statements that find Postgres away are repeated: an outage spends no attempt.
 */
export class JobRun implements JobContext {
  readonly jobId: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly db: Queryable;
  /** How `complete` ended the row, once it has. */
  completed: { ending: Ending; result: FinishResult } | undefined;
  readonly #pool: Pool;
  readonly #job: ClaimedJob;
  readonly #effects: EffectLedger;

  constructor(job: ClaimedJob, options: { pool: Pool; signal: AbortSignal; log: Logger }) {
    this.jobId = job.id;
    this.attempt = job.attempt;
    this.maxAttempts = job.maxAttempts;
    this.signal = options.signal;
    this.log = options.log;
    this.#job = job;
    this.#pool = options.pool;
    this.#effects = new EffectLedger(repeating(options.pool), job, options.signal);
    this.db = repeating(options.pool, options.signal);
  }

  effect: JobContext['effect'] = (request) => this.#effects.run(request);

  /**
   * Domain writes first, the fence last, one transaction: they happen exactly once, or another run does them. Repeated
   * after a held lock or a broken connection; if the connection broke after the commit, the repetition finds the row
   * ended by this very run and changes nothing.
   */
  complete: JobContext['complete'] = async (write) => {
    return untilItWorks(() => this.#completeOnce(write), {
      signal: this.signal,
      isWorthRepeating: (error) => error instanceof RowBusyError || isContention(error) || isConnectionError(error),
    });
  };

  async #completeOnce(write: (tx: JobTransaction) => Promise<Outcome>): Promise<Outcome> {
    return withTransaction(this.#pool, async (client) => {
      await client.query("select set_config('outbox.current_job', $1, true)", [this.#job.id]);
      const outcome = await write(jobTransaction(client));
      this.signal.throwIfAborted();
      const ending = endingOf(outcome);
      if (ending.kind === 'lost') throw new LeaseLostError(`Job ${this.#job.id} is held by another run.`);
      const [result] = await finishAll(client, [{ job: this.#job, ending }]);
      if (result?.kind === 'busy') throw new RowBusyError(`Job ${this.#job.id} is locked by another transaction.`);
      if (result?.kind !== 'finished') throw new LeaseLostError(`Job ${this.#job.id} is held by another run.`);
      this.completed = { ending, result };
      return outcome;
    });
  }
}

/** Single statements that may be repeated: reads, and the ledger's, which say the same when said twice. */
function repeating(pool: Pool, signal?: AbortSignal): Queryable {
  return {
    query: (text, values) =>
      untilItWorks(() => pool.query(text, values), { signal, isWorthRepeating: isConnectionError }),
  };
}

function jobTransaction(client: PoolClient): JobTransaction {
  return {
    query: (text, values) => client.query(text, values),
    enqueue: async (definition: JobDefinition, request) => {
      const key = request.key ?? definition.key(request.payload);
      const { id } = await enqueue(client, definition.name, { ...request, ...(key === undefined ? {} : { key }) });
      return id;
    },
  };
}

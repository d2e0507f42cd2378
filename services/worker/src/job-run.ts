import {
  enqueueDefined,
  JobCancelledError,
  LeaseLostError,
  withTransaction,
  type JobContext,
  type JobDefinition,
  reached,
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
import { Progress } from './progress.ts';
import type { ProviderCalls } from './provider-gate.ts';
import { isTransient, untilItWorks } from './until-it-works.ts';

/** This run was ended before, by a transaction whose answer got lost: roll back, it all happened already. */
class EndedEarlierError extends Error {
  readonly result: FinishResult;

  constructor(result: FinishResult) {
    super();
    this.result = result;
  }
}

/** The row was locked by another transaction when this one wanted to end it: roll back and do it all again. */
class RowBusyError extends Error {}

export interface JobRunOptions {
  pool: Pool;
  signal: AbortSignal;
  calls: ProviderCalls;
  /** Its logger is made at the first use. */
  log: { readonly logger: Logger };
}

/**
 * One run of a claimed row as its handler sees it. After an abort every call throws the reason, so a handler that ignores
 * its signal cannot act any more. Statements that find Postgres away are repeated: an outage spends no attempt.
 */
export class JobRun implements JobContext {
  readonly jobId: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly lateMs: number;
  readonly signal: AbortSignal;
  readonly db: Queryable;
  /** How `complete` ended the row, once it has. */
  completed: { ending: Ending; result: FinishResult } | undefined;
  readonly #pool: Pool;
  readonly #job: ClaimedJob;
  readonly #effects: EffectLedger;
  readonly #progress: Progress;
  readonly #calls: ProviderCalls;
  readonly #log: JobRunOptions['log'];
  #completing = false;

  constructor(job: ClaimedJob, options: JobRunOptions) {
    this.jobId = job.id;
    this.attempt = job.attempt;
    this.maxAttempts = job.maxAttempts;
    this.lateMs = job.lateMs;
    this.signal = options.signal;
    this.#log = options.log;
    this.#job = job;
    this.#pool = options.pool;
    this.#calls = options.calls;
    this.#effects = new EffectLedger(repeating(options.pool), job, { signal: options.signal, calls: options.calls });
    this.#progress = new Progress(options.pool, job, options);
    this.db = repeating(options.pool, options.signal);
  }

  get log(): Logger {
    return this.#log.logger;
  }

  progress: JobContext['progress'] = (value) => this.#progress.report(value);

  /** What was reported last and is not in the row yet. */
  get unwrittenProgress(): unknown {
    return this.#progress.unwritten;
  }

  call: JobContext['call'] = async (request) => {
    await this.#calls.turn();
    return this.#calls.make(() => request(this.signal));
  };

  effect: JobContext['effect'] = (request) => this.#effects.run(request);

  settle: JobContext['settle'] = (request) => this.#effects.settle(request);

  /** True when a call of this row may or may not have been carried out. */
  get effectsUndecided(): boolean {
    return this.#effects.undecided;
  }

  /**
   * Domain writes first, the fence last, one transaction: they happen exactly once, or another run does them. Repeated
   * after a held lock or a broken connection; if the connection broke after the commit, the repetition finds the row
   * ended by this very run and is rolled back. A cancel that committed before wins: what a completed job would write is
   * rolled back, what a skipped one notes is not.
   */
  complete: JobContext['complete'] = async (write) => {
    if (this.#completing) throw new Error('complete was called twice');
    this.#completing = true;
    return untilItWorks(() => this.#completeOnce(write), {
      signal: this.signal,
      isWorthRepeating: (error) => error instanceof RowBusyError || isTransient(error),
    });
  };

  async #completeOnce(write: (tx: JobTransaction) => Promise<Outcome>): Promise<Outcome> {
    const written: { outcome?: Outcome; ending?: Ending; result?: FinishResult } = {};
    try {
      await withTransaction(this.#pool, async (client) => {
        await client.query("select set_config('outbox.current_job', $1, true)", [this.#job.id]);
        written.outcome = await write(jobTransaction(client));
        this.signal.throwIfAborted();
        written.ending = endingOf(written.outcome);
        written.result = await this.#end(client, written.ending);
        reached('complete.written');
      });
      reached('finish.committed');
    } catch (error) {
      if (!(error instanceof EndedEarlierError)) throw error;
      written.result = error.result;
    }
    // Only now has it happened: a commit can fail, and its answer can get lost.
    const { outcome, ending, result } = written;
    if (!outcome || !ending || !result) throw new Error(`Job ${this.#job.id} was completed without an outcome.`);
    this.completed = { ending, result };
    return outcome;
  }

  async #end(client: PoolClient, ending: Exclude<Ending, { kind: 'lost' }>): Promise<FinishResult> {
    const [result] = await finishAll(client, [{ job: this.#job, ending, progress: this.unwrittenProgress }]);
    switch (result?.kind) {
      case 'finished':
        // The world may even look as before (paused and resumed): this run was not to change it any more.
        if (result.cancelRequested && ending.kind === 'completed') {
          throw new JobCancelledError(`Job ${this.#job.id} was cancelled; what it wrote is rolled back.`);
        }
        return result;
      case 'otherwise':
        throw new EndedEarlierError(result);
      case 'busy':
        throw new RowBusyError(`Job ${this.#job.id} is locked by another transaction.`);
      case 'lost':
      case undefined:
        throw new LeaseLostError(`Job ${this.#job.id} is held by another run.`);
    }
  }
}

/** Single statements that may be repeated: reads, and the ledger's, which say the same when said twice. */
function repeating(pool: Pool, signal?: AbortSignal): Queryable {
  return {
    query: (text, values) => untilItWorks(() => pool.query(text, values), { signal }),
  };
}

function jobTransaction(client: PoolClient): JobTransaction {
  return {
    query: (text, values) => client.query(text, values),
    enqueue: async (definition: JobDefinition, request) => {
      const { id } = await enqueueDefined(client, definition, request);
      return id;
    },
  };
}

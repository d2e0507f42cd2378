import type { JobDefinition, PayloadOf } from './define-job.ts';
import type { Logger } from './logger.ts';
import type { Outcome } from './outcome.ts';
import type { Queryable } from './postgres.ts';

/** What may be said when enqueuing; what is left out comes from the definition (`outbox.job_types`). */
export interface EnqueueRequest<Payload = unknown> {
  key?: string;
  payload: Payload;
  ownerId?: string | undefined;
  scheduledAt?: Date;
  priority?: number;
  maxAttempts?: number;
  idempotencyKey?: string;
  serialKey?: string;
  traceparent?: string;
}

/** The transaction that finishes a job. Its statements and the end of the row commit together or not at all. */
export interface JobTransaction extends Queryable {
  /** Adds a follow-up job that exists if and only if this transaction commits. */
  enqueue<D extends JobDefinition>(definition: D, request: EnqueueRequest<PayloadOf<D>>): Promise<string>;
}

/** A call to a provider that must not happen twice. */
export interface EffectRequest {
  /** The business fact, e.g. `reminder:<sync>:<contact>:1`: unique for ever, whichever job or attempt makes the call. */
  key: string;
  provider: string;
  /** Kept in the ledger: what was asked for, enough to find it again and for a person to finish the story. No secrets. */
  request: Record<string, unknown>;
  /** Makes the call; resolves with the provider's reference. It must give up within `timeoutMs`. */
  call: (signal: AbortSignal) => Promise<string>;
  /**
   * Asks the provider whether a call made since `startedAt` arrived; resolves with its reference, or undefined. `request`
   * is what the ledger has: by now the world may look different, and another text would not be found.
   */
  lookUp: (request: Record<string, unknown>, startedAt: Date, signal: AbortSignal) => Promise<string | undefined>;
  timeoutMs: number;
}

export type EffectOutcome =
  | { state: 'confirmed'; reference: string }
  | { state: 'rejected'; reason: string }
  | { state: 'unknown'; reason: string };

export interface JobContext {
  /** Row id, as a decimal string. */
  readonly jobId: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  /**
   * Milliseconds from the instant the job was first asked for, whatever it has waited for since (an outage, a limit, its
   * earlier attempts), to the claim of this run.
   */
  readonly lateMs: number;
  /** Aborts on time-out, lost lease, cancellation and shutdown. Pass it to every call that takes one. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** For reading. Writes belong into `complete`. Throws once the signal has aborted. */
  readonly db: Queryable;
  /**
   * Makes a call that may be repeated (a read, an update to absolute values) to the provider of this job: in its turn when
   * the provider has a limit, and its outcome counts for the circuit breaker. `request` gets a signal that aborts with the
   * job. Throws what `request` throws, or `RateLimitedError` when the turn is too far away to wait for. When the run then
   * ends with `ProviderUnavailableError` and the breaker is open, no attempt is spent.
   */
  readonly call: <T>(request: (signal: AbortSignal) => Promise<T>) => Promise<T>;
  /**
   * Makes a call that must not happen twice: written to the ledger before, settled after. Returns the outcome of an
   * earlier attempt without calling again. Throws what the call throws, or `EffectUndecidedError` while nobody can tell.
   */
  readonly effect: (request: EffectRequest) => Promise<EffectOutcome>;
  /**
   * Finds out what became of a call that an earlier attempt started and did not settle; makes none. Undefined when there
   * was none or it never arrived. A handler does this for all its open calls before it ends a job in any way. Throws
   * `EffectUndecidedError` while nobody can tell.
   */
  readonly settle: (request: Omit<EffectRequest, 'call' | 'request'>) => Promise<EffectOutcome | undefined>;
  /**
   * Runs the domain writes and ends the row in one transaction. `write` returns how the job ends; it may run more than
   * once (a lock was held, a connection broke), but commits once. Call it last and return what it returns.
   */
  readonly complete: (write: (tx: JobTransaction) => Promise<Outcome>) => Promise<Outcome>;
  /**
   * Tells people how far the job is: any JSON value, e.g. `{ done: 30, of: 200 }`. Call it as often as you like: it is
   * written about once a second, and the last value with the end of the run. Never throws and never fails the job; of a
   * run that no longer holds the row it is not taken.
   */
  readonly progress: (value: unknown) => void;
}

/** Payload and context in, outcome out. Throwing means "not now" or "never"; see `errors.ts`. */
export type JobHandler<D extends JobDefinition, Dependencies = unknown> = (
  payload: PayloadOf<D>,
  context: JobContext & Dependencies,
) => Promise<Outcome>;

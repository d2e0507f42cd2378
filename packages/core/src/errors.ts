/**
 * The errors this product throws on purpose. `code` is stable and safe to match on; the message says what happened, to
 * which thing, and what to do about it. `run-job.ts` of the worker alone translates them to BullMQ; clients of providers
 * alone translate HTTP to them.
 */
export abstract class OutboxError extends Error {
  abstract readonly code: string;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A setting is missing or wrong, or two settings contradict each other. The process stops with exit code 1. */
export class ConfigError extends OutboxError {
  readonly code = 'config';
}

/** Postgres, Redis or a port is not to be had at start. The process stops with exit code 1. */
export class UnavailableError extends OutboxError {
  readonly code = 'unavailable';
}

/** No further attempt can help: the row fails now. */
export class PermanentError extends OutboxError {
  readonly code: string;

  constructor(message: string, options: ErrorOptions & { code?: string } = {}) {
    super(message, options);
    this.code = options.code ?? 'permanent';
  }
}

/** Whom a limit holds: every job of the provider, those of the same tenant of it, or this job alone. */
export type LimitScope = 'provider' | 'tenant' | 'job';

/**
 * The provider asks to wait `retryAfterMs` milliseconds. No attempt is spent. Thrown by a call of `JobContext.call` or
 * `effect`, it holds all workers' calls within `scope`.
 */
export class RateLimitedError extends OutboxError {
  readonly code = 'rate_limited';
  readonly retryAfterMs: number;
  readonly scope: LimitScope;

  constructor(message: string, retryAfterMs: number, options: ErrorOptions & { scope?: LimitScope } = {}) {
    super(message, options);
    this.retryAfterMs = retryAfterMs;
    this.scope = options.scope ?? 'job';
  }
}

/**
 * The provider could not be reached or failed. `ambiguous` is true when the request may have been carried out all the
 * same (a time-out, a reset after the request was sent, a 5xx), false when it certainly was not.
 */
export class ProviderUnavailableError extends OutboxError {
  readonly code = 'provider_unavailable';
  readonly ambiguous: boolean;

  constructor(message: string, options: ErrorOptions & { ambiguous: boolean }) {
    super(message, options);
    this.ambiguous = options.ambiguous;
  }
}

/**
 * A call that must not happen twice may or may not have happened, and the provider cannot tell yet. The job is parked
 * for `retryAfterMs` milliseconds and asks again; no attempt is spent.
 */
export class EffectUndecidedError extends OutboxError {
  readonly code = 'effect_undecided';
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs: number) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

/** This run no longer holds the row: its lease ran out and another run took over. Nothing it does counts any more. */
export class LeaseLostError extends OutboxError {
  readonly code = 'lease_lost';
}

/** The row asked to be cancelled while it ran, before this effect or write began. */
export class JobCancelledError extends OutboxError {
  readonly code = 'cancelled';
}

/** The handler ran longer than the job's time-out. */
export class JobTimeoutError extends OutboxError {
  readonly code = 'timeout';
}

/** Closes a `switch` over a union: adding a member without a case stops compiling. */
export function assertNever(value: never): never {
  throw new Error(`Unexpected value ${JSON.stringify(value)}`);
}

/** The provider refused this one call for good, e.g. a number that cannot receive texts. Other calls may succeed. */
export class EffectRejectedError extends OutboxError {
  readonly code: string;

  constructor(message: string, options: ErrorOptions & { code: string }) {
    super(message, options);
    this.code = options.code;
  }
}

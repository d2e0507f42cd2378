import { setTimeout as sleep } from 'node:timers/promises';
import {
  EffectUndecidedError,
  microBatch,
  OutboxError,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
  type Pool,
} from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import type { Ending } from './ending.ts';
import { describeError } from './finish.ts';
import { untilItWorks } from './until-it-works.ts';

/** A call waits for its turn so long; one whose turn is further away parks its job. Less than any job's time-out. */
const LONGEST_WAIT_MS = 20 * SECOND;

const TAKE_TURNS = /* sql */ `
  select position, granted, wait_ms as "waitMs", reason
  from outbox.take_turns($1, $2, $3)`;

interface Turn {
  granted: boolean;
  waitMs: number;
  reason: string | null;
}

/** Whom a run calls, and as whom. */
interface Caller {
  provider: string;
  tenant: string | null;
}

/**
 * This process's side of the gate to providers (35_provider_gate.sql), which all workers share. Runs that call at the same
 * time share a statement. Rejects only while Postgres refuses.
 */
export class ProviderGate {
  readonly #pool: Pool;
  readonly #takeTurn: (caller: Caller) => Promise<Turn>;
  readonly #noteAnswer: (caller: Caller) => Promise<undefined>;

  constructor(pool: Pool, maxBatch: number) {
    this.#pool = pool;
    this.#takeTurn = microBatch({ maxSize: maxBatch, runBatch: (callers: Caller[]) => this.#takeTurns(callers) });
    this.#noteAnswer = microBatch({ maxSize: maxBatch, runBatch: (callers: Caller[]) => this.#noteAnswers(callers) });
  }

  /** What one run does at the gate; one that calls nobody passes as if there were none. */
  open(job: ClaimedJob, signal: AbortSignal): ProviderCalls {
    const { provider, providerTenant: tenant } = job;
    return new ProviderCalls(job, signal, provider === null ? undefined : { gate: this, caller: { provider, tenant } });
  }

  takeTurn(caller: Caller): Promise<Turn> {
    return this.#takeTurn(caller);
  }

  async noteAnswer(caller: Caller): Promise<void> {
    await this.#noteAnswer(caller);
  }

  /** Until when nobody calls the provider, in milliseconds from now; undefined while people still do. */
  async noteFailure(
    { provider, tenant }: Caller,
    { jobId, error, spendsAttempt }: { jobId: string; error: unknown; spendsAttempt: boolean },
  ): Promise<number | undefined> {
    const { rows } = await this.#pool.query<{ waitMs: number | null }>(
      /* sql */ `
      select extract(epoch from n.until - clock_timestamp())::float8 * 1000 as "waitMs"
      from outbox.note_provider_failure($1, $2, $3, $4, $5) as n (until)`,
      [provider, tenant, jobId, describeError(error), spendsAttempt],
    );
    return rows[0]?.waitMs ?? undefined;
  }

  async noteLimit({ provider, tenant }: Caller, { scope, retryAfterMs }: RateLimitedError): Promise<void> {
    const limited = scope === 'tenant' ? tenant : null;
    await this.#pool.query('select outbox.note_provider_limit($1, $2, $3)', [provider, limited, retryAfterMs]);
  }

  async releaseProbe(jobId: string): Promise<void> {
    await this.#pool.query('select outbox.release_probe($1)', [jobId]);
  }

  async #takeTurns(callers: Caller[]): Promise<Turn[]> {
    const { rows } = await this.#pool.query<Turn & { position: number } & Record<string, unknown>>(TAKE_TURNS, [
      callers.map(({ provider }) => provider),
      callers.map(({ tenant }) => tenant),
      LONGEST_WAIT_MS,
    ]);
    return rows.sort((a, b) => a.position - b.position);
  }

  async #noteAnswers(callers: Caller[]): Promise<undefined[]> {
    await this.#pool.query('select outbox.note_provider_answers($1, $2)', [
      callers.map(({ provider }) => provider),
      callers.map(({ tenant }) => tenant),
    ]);
    return callers.map(() => undefined);
  }
}

/** Repeating any of these does no harm: at worst a turn is left unused, or a failure counts twice. */
function persistently<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  return untilItWorks(work, { signal });
}

/** The calls that one run makes, and what they tell about the provider. */
export class ProviderCalls {
  readonly #job: ClaimedJob;
  readonly #signal: AbortSignal;
  readonly #through: { gate: ProviderGate; caller: Caller } | undefined;
  #answered = false;
  #unavailable: ProviderUnavailableError | undefined;

  constructor(job: ClaimedJob, signal: AbortSignal, through: { gate: ProviderGate; caller: Caller } | undefined) {
    this.#job = job;
    this.#signal = signal;
    this.#through = through;
  }

  /**
   * Waits until this run may call. Throws `RateLimitedError` when that is too far away: then nothing has been called, and the
   * job comes back.
   */
  async turn(): Promise<void> {
    this.#signal.throwIfAborted();
    if (!this.#through) return;
    const { gate, caller } = this.#through;
    const { granted, waitMs, reason } = await persistently(() => gate.takeTurn(caller), this.#signal);
    if (!granted) throw new RateLimitedError(`${caller.provider} is not to be called now (${reason}).`, waitMs);
    if (waitMs > 0) await sleep(waitMs, undefined, { signal: this.#signal }).catch(() => undefined);
    this.#signal.throwIfAborted();
  }

  /** Makes the call and notes what it says about the provider. A limit holds for everybody at once. */
  async make<T>(call: () => Promise<T>): Promise<T> {
    try {
      const answer = await call();
      this.#answered = true;
      return answer;
    } catch (error) {
      if (error instanceof ProviderUnavailableError) {
        // An abort of ours (a time-out of the job, a cancellation, a shutdown) says nothing about the provider.
        if (!this.#signal.aborted) this.#unavailable = error;
      } else if (error instanceof OutboxError) this.#answered = true;
      if (error instanceof RateLimitedError && error.scope !== 'job' && this.#through) {
        const { gate, caller } = this.#through;
        await persistently(() => gate.noteLimit(caller, error));
      }
      throw error;
    }
  }

  /**
   * What the run's end tells about the provider, and in return how the run ends: while nobody calls the provider, one that
   * found it unavailable is parked and spends no attempt. `error` is what the handler threw; undefined when it succeeded.
   * A crash before this leaves the row active: it is claimed again, and the provider asked again.
   */
  async judge(ending: Ending, error: unknown): Promise<Ending> {
    if (!this.#through || ending.kind === 'lost') return ending;
    const { gate, caller } = this.#through;
    const unavailable = this.#unavailableFor(ending, error);
    if (unavailable) {
      const spendsAttempt = ending.kind === 'retried' || ending.kind === 'failed';
      const failure = { jobId: this.#job.id, error: unavailable, spendsAttempt };
      const waitMs = await persistently(() => gate.noteFailure(caller, failure));
      return waitMs === undefined ? ending : parked(ending, waitMs, unavailable);
    }
    if (this.#answered) await persistently(() => gate.noteAnswer(caller));
    else if (this.#job.probing) await persistently(() => gate.releaseProbe(this.#job.id));
    return ending;
  }

  /** A run that came to its end in spite of a failed call, or for another reason than that, has got its answers. */
  #unavailableFor(ending: Ending, error: unknown): ProviderUnavailableError | undefined {
    if (ending.kind === 'completed' || ending.kind === 'skipped') return undefined;
    if (error instanceof ProviderUnavailableError) return this.#unavailable ?? error;
    return error instanceof EffectUndecidedError ? this.#unavailable : undefined;
  }
}

/** Somewhat later than the breaker lets the first one through, each a bit differently. */
const JITTER_MS = 2 * SECOND;

function parked(ending: Ending, waitMs: number, error: ProviderUnavailableError): Ending {
  const delayMs = waitMs + Math.random() * JITTER_MS;
  const earliest = ending.kind === 'parked' ? Math.max(ending.delayMs, delayMs) : delayMs;
  return { kind: 'parked', delayMs: earliest, error, reason: 'breaker_open' };
}

import {
  codeOf,
  EffectRejectedError,
  EffectUndecidedError,
  JobCancelledError,
  LeaseLostError,
  MINUTE,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  reached,
  SECOND,
  SQLSTATE,
  type EffectOutcome,
  type EffectRequest,
  type Queryable,
} from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import type { ProviderCalls } from './provider-gate.ts';

/**
 * The effect ledger. A call that must not happen twice is written down before it is made:
 *
 *   (none) ──start──▶ started ──confirmed, rejected: the provider said so
 *                        │ ╲──(none): the call certainly was not carried out
 *                        │
 *                        └─ the run died, or nobody answered: the next run asks the provider
 *                             found        → confirmed
 *                             not found    → (none), but only once no request can still be under way
 *                             cannot tell  → asked again later, after an hour: unknown. A person decides; it is never
 *                                            sent again blindly
 *
 * A row that was open in a database restored to an older state may have made calls in the time that was lost, which no
 * entry tells of. For it a call without an entry counts as started at the beginning of that time ($7): the provider is
 * asked first, by the same rules.
 *
 * `start` locks the job row for share and checks the fence and the cancel request, so it waits for a cancel in flight
 * and loses against one that committed.
 */
const START = /* sql */ `
  with job as (
    select j.cancel_requested_at is not null as cancelled
    from outbox.jobs j
    where j.id = $2 and j.run = $3 and j.state = 'active'
    for share
  ),
  started as (
    insert into outbox.effects (key, job_id, run, provider, state, request, started_at, deadline_at)
    select
      $1, $2, $3, $4, 'started', $5, coalesce(case when $7 then m.restored_from end, clock_timestamp()),
      -- Whoever was calling when the database was restored had given up so long after.
      coalesce(case when $7 then m.restored_at end, clock_timestamp()) + $6 * interval '1 ms'
    from job
    join outbox.meta m on m.only_row
    where not job.cancelled
    on conflict (key) do nothing
    returning 1
  )
  select
    exists (select from job) as held, coalesce((select job.cancelled from job), false) as cancelled,
    exists (select from started) as started`;

const READ = /* sql */ `
  select
    e.state, e.reference, e.reason, e.run, e.request, e.started_at as "startedAt",
    extract(epoch from e.deadline_at - clock_timestamp())::float8 * 1000 as "deadlineInMs",
    -- Not before the run that wrote it down: after a restore the entry dates back to the beginning of the lost time.
    extract(epoch from clock_timestamp() - greatest(e.started_at, a.started_at))::float8 * 1000 as "ageMs"
  from outbox.effects e
  left join outbox.attempts a on a.job_id = e.job_id and a.run = e.run
  where e.key = $1
  limit 1`;

/** What the provider said is true whoever asked: no fence here. */
const SETTLE = /* sql */ `
  update outbox.effects
  set state = $2, reference = $3, reason = $4, settled_at = clock_timestamp()
  where key = $1 and state = 'started'`;

const FORGET = /* sql */ `
  delete from outbox.effects
  where key = $1 and run = $2 and state = 'started'`;

/** As above, of a run that died: only the run that holds the row may say so, or it would undo what that one found. */
const FORGET_EARLIER = /* sql */ `
  with job as (
    select 1 from outbox.jobs j where j.id = $3 and j.run = $4 and j.state = 'active' for share
  )
  delete from outbox.effects e
  using job
  where e.key = $1 and e.run = $2 and e.state = 'started'`;

/** A request that was on its way when the call gave up has arrived, or never will, this long after the deadline. */
const SETTLE_MS = 15 * SECOND;

/** Ask a provider that cannot tell again after this time, and no longer than the next. */
const ASK_AGAIN_MS = 30 * SECOND;
const ASK_FOR_MS = 60 * MINUTE;

interface EffectRow {
  state: 'started' | 'confirmed' | 'rejected' | 'unknown';
  reference: string | null;
  reason: string | null;
  run: string;
  request: Record<string, unknown>;
  startedAt: Date;
  deadlineInMs: number;
  ageMs: number;
}

/** What it takes to decide about an earlier call. */
type Decidable = Omit<EffectRequest, 'call' | 'request'>;

const HAS_OPEN = /* sql */ `
  select exists (select from outbox.effects where job_id = $1 and state = 'started') as open
  limit 1`;

/** True while a call of this job, made by whichever run, may or may not have been carried out. */
export async function hasOpenEffects(db: Queryable, jobId: string): Promise<boolean> {
  const { rows } = await db.query<{ open: boolean }>(HAS_OPEN, [jobId]);
  return rows[0]?.open ?? false;
}

export class EffectLedger {
  readonly #db: Queryable;
  readonly #job: ClaimedJob;
  readonly #signal: AbortSignal;
  readonly #calls: ProviderCalls;
  /** Keys of calls, of this run or one before, that may or may not have been carried out. */
  readonly #open = new Set<string>();

  constructor(db: Queryable, job: ClaimedJob, { signal, calls }: { signal: AbortSignal; calls: ProviderCalls }) {
    this.#db = db;
    this.#job = job;
    this.#signal = signal;
    this.#calls = calls;
  }

  /** True while a call is under way or nobody can tell what became of it. */
  get undecided(): boolean {
    return this.#open.size > 0;
  }

  /** See `JobContext.effect`. */
  async run(request: EffectRequest): Promise<EffectOutcome> {
    this.#signal.throwIfAborted();
    const earlier = (await this.#read(request.key)) ?? (await this.#assumeLost(request));
    const outcome = earlier && (await this.#outcomeOf(request, earlier));
    return outcome ?? this.#startAndCall(request);
  }

  /** What the ledger would have if this call had been made in the time that a restore has lost. */
  async #assumeLost(request: EffectRequest): Promise<EffectRow | undefined> {
    if (this.#job.callsUnknownSince === null) return undefined;
    await this.#start(request, { inLostTime: true });
    return this.#read(request.key);
  }

  /** See `JobContext.settle`. */
  async settle(request: Decidable): Promise<EffectOutcome | undefined> {
    this.#signal.throwIfAborted();
    const earlier = await this.#read(request.key);
    return earlier && this.#outcomeOf(request, earlier);
  }

  async #outcomeOf(request: Decidable, earlier: EffectRow): Promise<EffectOutcome | undefined> {
    return earlier.state === 'started' ? this.#decide(request, earlier) : toOutcome(earlier);
  }

  async #startAndCall(request: EffectRequest): Promise<EffectOutcome> {
    this.#assertAttemptsLeft(request.key);
    await this.#calls.turn(); // before it is written down: the deadline counts from there
    const deadline = performance.now() + request.timeoutMs;
    if (await this.#start(request)) return this.#call(request, deadline);
    throw new EffectUndecidedError(`Effect ${request.key} is being decided elsewhere.`, ASK_AGAIN_MS);
  }

  async #start({ key, provider, request, timeoutMs }: EffectRequest, { inLostTime = false } = {}): Promise<boolean> {
    const { id, run } = this.#job;
    this.#open.add(key); // from here on, an abort may find the call under way
    const values = [key, id, run, provider, JSON.stringify(request), timeoutMs, inLostTime];
    const { rows } = await this.#db
      .query<{ held: boolean; cancelled: boolean; started: boolean }>(START, values)
      .catch((error: unknown) => {
        // A business transaction that may be cancelling this job has its row: ask again rather than wait without end.
        if (codeOf(error) !== SQLSTATE.lockNotAvailable) throw error;
        this.#open.delete(key);
        throw new EffectUndecidedError(`Job ${id} is locked by another transaction.`, 1 * SECOND);
      });
    const answer = rows[0];
    if (!answer?.started) this.#open.delete(key);
    if (!answer?.held) throw new LeaseLostError(`Job ${id} is held by another run; ${key} was not started.`);
    if (answer.cancelled) throw new JobCancelledError(`Job ${id} was cancelled; ${key} was not started.`);
    return answer.started;
  }

  /**
   * `deadline` (performance.now) counts from before the ledger was written, because others count from when it was: if
   * Postgres was slow to answer, another run may have looked already, and nothing may be sent any more.
   */
  async #call(request: EffectRequest, deadline: number): Promise<EffectOutcome> {
    const remainingMs = Math.floor(deadline - performance.now());
    if (this.#signal.aborted || remainingMs <= 0) {
      await this.#forget(request.key, this.#job.run);
      this.#signal.throwIfAborted();
      throw new EffectUndecidedError(`The ledger was too slow; ${request.key} was not sent.`, 1 * SECOND);
    }
    reached('effect.started');
    try {
      const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(remainingMs)]);
      const reference = await this.#calls.make(() => request.call(signal));
      reached('effect.called');
      return await this.#settle(request.key, { state: 'confirmed', reference });
    } catch (error) {
      if (error instanceof EffectRejectedError) {
        return this.#settle(request.key, { state: 'rejected', reason: error.code });
      }
      if (wasCertainlyNotCarriedOut(error)) await this.#forget(request.key, this.#job.run);
      throw error;
    }
  }

  /** A call was started and never settled: only the provider knows. Undefined when it never arrived. */
  async #decide(request: Decidable, row: EffectRow): Promise<EffectOutcome | undefined> {
    this.#open.add(request.key);
    const found = await this.#lookUp(request, row);
    if (found.answered && found.reference !== undefined) {
      return this.#settle(request.key, { state: 'confirmed', reference: found.reference });
    }
    if (!found.answered) {
      const isAskedLongEnough = row.run !== this.#job.run && row.ageMs > ASK_FOR_MS;
      if (isAskedLongEnough) return this.#settle(request.key, { state: 'unknown', reason: 'provider_cannot_tell' });
      throw new EffectUndecidedError(
        `${request.provider} cannot tell yet whether ${request.key} happened.`,
        ASK_AGAIN_MS,
      );
    }
    const waitMs = row.deadlineInMs + SETTLE_MS;
    if (waitMs > 0) throw new EffectUndecidedError(`A call for ${request.key} may still be under way.`, waitMs);
    // It never arrived: as if it had not been started.
    await this.#db.query(FORGET_EARLIER, [request.key, row.run, this.#job.id, this.#job.run]);
    this.#open.delete(request.key);
    return undefined;
  }

  /** A row whose attempts are spent gets one more run while a call of its is undecided: to decide it, not to make more. */
  #assertAttemptsLeft(key: string): void {
    if (this.#job.attempt <= this.#job.maxAttempts) return;
    throw new PermanentError(`The attempts are spent; ${key} is not sent any more.`, { code: 'attempts_spent' });
  }

  async #lookUp(
    request: Decidable,
    row: EffectRow,
  ): Promise<{ answered: true; reference: string | undefined } | { answered: false }> {
    try {
      await this.#calls.turn();
      const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(request.timeoutMs)]);
      const reference = await this.#calls.make(() => request.lookUp(row.request, row.startedAt, signal));
      return { answered: true, reference };
    } catch {
      // Whatever it was (also a refusal for good, e.g. of our credentials): it says nothing about the call.
      this.#signal.throwIfAborted();
      return { answered: false };
    }
  }

  async #settle<Settled extends EffectOutcome>(key: string, outcome: Settled): Promise<Settled> {
    await this.#db.query(SETTLE, [
      key,
      outcome.state,
      'reference' in outcome ? outcome.reference : null,
      'reason' in outcome ? outcome.reason : null,
    ]);
    reached('effect.settled');
    this.#open.delete(key);
    return outcome;
  }

  /** The call was not carried out: nothing is left to decide. */
  async #forget(key: string, run: string): Promise<void> {
    await this.#db.query(FORGET, [key, run]);
    this.#open.delete(key);
  }

  async #read(key: string): Promise<EffectRow | undefined> {
    const { rows } = await this.#db.query<EffectRow & Record<string, unknown>>(READ, [key]);
    return rows[0];
  }
}

/** Everything else (a time-out, a reset, a 5xx, our own abort) may have been carried out. */
function wasCertainlyNotCarriedOut(error: unknown): boolean {
  if (error instanceof RateLimitedError || error instanceof PermanentError) return true;
  return error instanceof ProviderUnavailableError && !error.ambiguous;
}

function toOutcome({ state, reference, reason }: EffectRow): EffectOutcome {
  if (state === 'confirmed' && reference !== null) return { state, reference };
  return { state: state === 'rejected' ? 'rejected' : 'unknown', reason: reason ?? 'unknown' };
}

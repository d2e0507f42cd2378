import { JobCancelledError, LeaseLostError, type Logger, type Pool } from '@outbox/core';
import type { ClaimedJob } from './claim.ts';

/** A lease is renewed three times in its life, so that two lost renewals do not cost it. */
const RENEWALS_PER_LEASE = 3;

const RENEW = /* sql */ `
  with running as (
    select r.id, r.run from unnest($1::bigint[], $2::bigint[]) as r (id, run)
  ),
  held as (
    select j.id
    from outbox.jobs j
    join running r on r.id = j.id and r.run = j.run
    where j.state = 'active'
    order by j.id
    for no key update of j skip locked
  ),
  renewed as (
    update outbox.jobs j
    set locked_until = clock_timestamp() + $3 * interval '1 ms'
    from held h
    where j.id = h.id
    returning j.id
  )
  select
    r.id, r.run, coalesce(j.run = r.run and j.state = 'active', false) as held,
    j.cancel_requested_at is not null as "cancelRequested"
  from running r
  left join outbox.jobs j on j.id = r.id`;

/** Cancelled, or not of this run any more: taken over, or a claim that a crash of the database has forgotten. */
const FIND_STOPPED = /* sql */ `
  select r.id, r.run, j.run is not distinct from r.run as held
  from unnest($1::bigint[], $2::bigint[]) as r (id, run)
  left join outbox.jobs j on j.id = r.id
  where j.run is distinct from r.run or j.cancel_requested_at is not null`;

/** A person who pauses something expects it to stop at once; the renewal of a lease comes too seldom for that. */
const CHECK_MS = 500;

interface Running {
  job: ClaimedJob;
  abort: (reason: Error) => void;
}

export interface LeasesOptions {
  pool: Pool;
  leaseMs: number;
  /** Aborts when the process stops and its patience is over: every running job is aborted with its reason. */
  handBack: AbortSignal;
  log: Logger;
}

/**
 * Keeps the leases of all running jobs, in one statement on its own connection, and brings back what others decided: a
 * job whose row another run took over is aborted with `LeaseLostError`, one that was cancelled with `JobCancelledError`.
 * A row that somebody has locked is renewed the next time.
 */
export class Leases {
  readonly #pool: Pool;
  readonly #leaseMs: number;
  readonly #log: Logger;
  readonly #running = new Set<Running>();
  #renewTimer: NodeJS.Timeout | undefined;
  #checkTimer: NodeJS.Timeout | undefined;
  #checking: Promise<void> | undefined;
  #renewing: Promise<void> | undefined;

  constructor(options: LeasesOptions) {
    this.#pool = options.pool;
    this.#leaseMs = options.leaseMs;
    this.#log = options.log;
    options.handBack.addEventListener('abort', () => {
      for (const { abort } of this.#running) abort(options.handBack.reason as Error);
    });
  }

  start(): void {
    this.#renewTimer ??= setInterval(() => void this.renew(), this.#leaseMs / RENEWALS_PER_LEASE);
    this.#checkTimer ??= setInterval(() => void this.checkStopped(), CHECK_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#renewTimer);
    clearInterval(this.#checkTimer);
    await Promise.all([this.#renewing, this.#checking]);
  }

  /** Watches over a job until the returned function is called. */
  keep(job: ClaimedJob, abort: (reason: Error) => void): () => void {
    const running = { job, abort };
    this.#running.add(running);
    return () => this.#running.delete(running);
  }

  /** One at a time; a call while another is under way joins it. */
  renew(): Promise<void> {
    this.#renewing ??= this.#renewAll().finally(() => (this.#renewing = undefined));
    return this.#renewing;
  }

  /** Aborts what was asked to be cancelled or is not ours any more. One at a time, as `renew`. */
  checkStopped(): Promise<void> {
    this.#checking ??= this.#abortStopped().finally(() => (this.#checking = undefined));
    return this.#checking;
  }

  async #abortStopped(): Promise<void> {
    const running = [...this.#running];
    if (running.length === 0) return;
    try {
      const { rows } = await this.#pool.query<{ id: string; run: string; held: boolean }>(FIND_STOPPED, idsOf(running));
      for (const { job, abort } of running) {
        const row = rows.find(({ id, run }) => id === job.id && run === job.run);
        if (row && !row.held) abort(lost(job));
        // Known at its claim: it must be let find out what became of its call.
        else if (row && !job.cancelRequested) abort(cancelled(job));
      }
    } catch (err) {
      this.#log.warn({ err }, 'cancellations not looked for');
    }
  }

  async #renewAll(): Promise<void> {
    const running = [...this.#running];
    if (running.length === 0) return;
    try {
      const { rows } = await this.#pool.query<{ id: string; run: string; held: boolean; cancelRequested: boolean }>(
        RENEW,
        [running.map(({ job }) => job.id), running.map(({ job }) => job.run), this.#leaseMs],
      );
      for (const { job, abort } of running) {
        const row = rows.find(({ id, run }) => id === job.id && run === job.run);
        if (!row?.held) abort(lost(job));
        else if (row.cancelRequested && !job.cancelRequested) abort(cancelled(job));
      }
    } catch (err) {
      this.#log.warn({ err }, 'leases not renewed');
    }
  }
}

function idsOf(running: Running[]): [string[], string[]] {
  return [running.map(({ job }) => job.id), running.map(({ job }) => job.run)];
}

function lost(job: ClaimedJob): LeaseLostError {
  return new LeaseLostError(`Job ${job.id} is held by another run.`);
}

function cancelled(job: ClaimedJob): JobCancelledError {
  return new JobCancelledError(`Job ${job.id} was cancelled.`);
}

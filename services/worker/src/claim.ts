import { setTimeout as wait } from 'node:timers/promises';
import { microBatch, reached, type Pool } from '@outbox/core';
import type { RestoreWatch } from './restore-watch.ts';

/** A row this process may run, as the claim left it. */
export interface ClaimedJob {
  id: string;
  generation: number;
  /** The fence: only the holder of the newest run may start an effect or finish the row. */
  run: string;
  name: string;
  queue: string;
  payload: unknown;
  attempt: number;
  maxAttempts: number;
  timeoutMs: number;
  backoffType: 'exponential' | 'fixed';
  backoffMs: number;
  backoffJitter: number;
  /** True when it was cancelled before this run, which is there only to find out what became of a call. */
  cancelRequested: boolean;
  /**
   * Set when the database was restored to an older state in which this row was open: from this instant on it may have made
   * calls that the ledger does not know.
   */
  callsUnknownSince: Date | null;
  /** Milliseconds from the instant the job was first asked for, whatever it has waited for since, to the claim. */
  lateMs: number;
  /** Milliseconds from the instant the job was due to the claim, by the database's clock. */
  queuedMs: number;
  /** Whom it calls; null when nobody who could be down. */
  provider: string | null;
  /** As whom it calls; null when the provider knows us as one. */
  providerTenant: string | null;
  /** True when this run is let through a breaker to find out whether the provider is back. */
  probing: boolean;
}

/**
 * What to do with a job that BullMQ delivered:
 * - `run`: the row is ours until the lease ends.
 * - `later`: not now; come back at `atMs` (epoch milliseconds, database clock). No attempt is spent.
 * - `drop`: the row is finished, gone, or alive under a newer generation; BullMQ's job has nothing left to do.
 */
export type Verdict =
  | { kind: 'run'; job: ClaimedJob }
  | { kind: 'later'; atMs: number; reason: 'not_due' | 'leased' | 'busy' | 'paused' | 'parked' | 'restored' }
  | { kind: 'drop'; reason: 'missing' | 'superseded' | 'finished' | 'interrupted_too_often' };

export interface Delivery {
  id: string;
  generation: number;
}

/**
 * A row is busy when a transaction of somebody else has it locked. Usually it is the bridge, which has just given us the job
 * and is about to commit that it did, so we ask again at once; who still has it then may have it for long.
 */
const BUSY_PAUSES_MS = [1, 2, 5, 20, 100];
const BUSY_RETRY_MS = 500;

/** The bridge pauses BullMQ too; until it has, a delivered job of a paused queue is put off by so much. */
const PAUSED_RETRY_MS = 5_000;

/** A person has to set a restored database right: that takes a while. */
const RESTORED_RETRY_MS = 30_000;

/** A job that took so many workers down with it is set aside as failed. */
const MAX_INTERRUPTIONS = 10;

/** The commit does not wait for the disk; what that may leave behind is told below. */
const HURRIED = /* sql */ `
  hurried as materialized (
    select set_config('synchronous_commit', 'off', true)
  )`;

/** Of the kind of a job; times in milliseconds. */
const OF_ITS_KIND = /* sql */ `t.provider, t.unique_mode, t.backoff_type, t.backoff_jitter,
      extract(epoch from coalesce(t.operator_backoff, t.backoff))::float8 * 1000 as backoff_ms,
      extract(epoch from coalesce(t.operator_timeout, t.timeout))::float8 * 1000 as timeout_ms`;

/** True when the provider's gate has something to say (35_provider_gate.sql). */
const isGated = (provider: string, tenant: string) => /* sql */ `
        ${provider} is not null
        and (
          exists (
            select from outbox.breakers b
            where b.provider = ${provider}
              and b.tenant in ('', ${tenant})
              and (b.state <> 'closed' or b.limited_until > clock_timestamp())
          )
          or exists (select from outbox.providers p where p.name = ${provider} and p.paused_at is not null)
        )`;

const IS_CURRENT_DATABASE = '(select m.restore_counter from outbox.meta m where m.only_row) >= $6';

const CLAIMED = /* sql */ `
  claimed as (
    update outbox.jobs j
    set state = 'active', run = outbox.new_run(), attempt = c.attempt + (not c.interrupted)::int,
        interruptions = c.interruptions_now, rerun = j.rerun and j.cancel_requested_at is not null, locked_by = $3,
        locked_until = clock_timestamp() + $4 * interval '1 ms', started_at = clock_timestamp(),
        published_at = coalesce(j.published_at, clock_timestamp()), published_epoch = coalesce(j.published_epoch, c.epoch),
        reason = case when j.cancel_requested_at is not null then j.reason end,
        holds_key = j.holds_key and c.unique_mode = 'open'
    from claimable c
    where j.id = c.id and c.interruptions_now <= $5
    returning
      j.id, j.generation, j.run, j.name, j.queue, j.payload, j.attempt, j.max_attempts,
      j.cancel_requested_at is not null as cancel_requested,
      extract(epoch from clock_timestamp() - j.scheduled_at)::float8 * 1000 as queued_ms,
      extract(epoch from clock_timestamp() - j.due_at)::float8 * 1000 as late_ms, j.created_at, c.provider,
      j.provider_tenant, c.probing, c.backoff_type, c.backoff_jitter, c.backoff_ms, c.timeout_ms
  )`;

const SELECT_CLAIMED = /* sql */ `
  select
    c.id, c.generation, c.run, c.name, c.queue, c.payload, c.attempt, c.max_attempts as "maxAttempts",
    c.cancel_requested as "cancelRequested", c.queued_ms as "queuedMs", c.late_ms as "lateMs", c.provider,
    c.provider_tenant as "providerTenant", c.probing, c.timeout_ms as "timeoutMs", c.backoff_type as "backoffType",
    c.backoff_jitter as "backoffJitter", c.backoff_ms as "backoffMs",
    case when c.created_at < m.restored_at then m.restored_from end as "callsUnknownSince",
    null as state, null::boolean as paused, null::boolean as parked, null::boolean as "givenUp",
    null::float8 as "scheduledMs", null::float8 as "lockedUntilMs",
    extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs", m.restore_counter as "restoreCounter"
  from claimed c
  join outbox.meta m on m.only_row`;

/**
 * Claims the rows that wait for nothing but a worker: nearly all that are delivered. PostgreSQL sets up every part of a
 * statement each time it is carried out, so this one, of few parts, takes two thirds of the time of `CLAIM`.
 */
const CLAIM_UNHINDERED = /* sql */ `
  with ${HURRIED},
  claimable as (
    select
      j.id, j.attempt, false as interrupted, j.interruptions as interruptions_now, q.epoch, false as probing, ${OF_ITS_KIND}
    from hurried
    cross join unnest($1::bigint[], $2::int[]) as d (id, generation)
    join outbox.jobs j on j.id = d.id and j.generation = d.generation
    join outbox.queues q on q.name = j.queue
    join outbox.job_types t on t.name = j.name
    where j.state in ('pending', 'published')
      and j.scheduled_at <= clock_timestamp()
      and (j.serial_key is null or j.admitted)
      and q.paused_at is null
      and ${IS_CURRENT_DATABASE}
      and not (${isGated('t.provider', 'j.provider_tenant')})
    order by j.id
    for no key update of j skip locked
  ),
  ${CLAIMED}
  ${SELECT_CLAIMED}`;

/**
 * Rows are locked in order of id and locked ones are skipped: batches cannot deadlock, and one idle business transaction
 * that holds a row delays that row alone.
 *
 *   pending, published  → active, attempt + 1. Pending too: a worker may be faster than the bridge's mark.
 *   active, lease over  → active, same attempt, interruptions + 1: BullMQ redelivered the job of a worker that died
 *   any of these        → failed, when workers died of it too often
 *
 * Nothing of a database that is older than one this process has seen ($6, restore-watch.ts). Not while its queue is paused
 * (BullMQ may have forgotten), nor a row with a serial key before its turn. A row whose provider is not to be called is
 * parked instead (35_provider_gate.sql): it is due again later, and keeps its attempts. One that was interrupted is not
 * stopped there: what became of its call has to be found out.
 *
 * What was asked for while the row waited is done by this run, which reads the world after the claim: it need not run
 * again. One that was cancelled only finds out about its call, so what was asked for since is still to be done.
 *
 * A crash after the commit leaves an active row with a lease that runs out: the redelivery claims it again. The commit does
 * not wait for the disk (`hurried`): a crash of the database may forget it, and the row is as before while its job runs. The
 * next run has another number, and nothing of this one counts any more: what it starts or ends from then on finds that its
 * number does not match. What it had started before is not forgotten, since the ledger waits for the disk, and so for
 * everything that was written before, this claim too.
 */
const CLAIM = /* sql */ `
  with ${HURRIED},
  delivered as (
    select d.id, d.generation from unnest($1::bigint[], $2::int[]) as d (id, generation) cross join hurried
  ),
  unlocked as (
    select
      j.id, j.generation, j.state, j.run, j.attempt, j.interruptions, j.scheduled_at, j.locked_by, j.locked_until,
      j.started_at, q.paused_at is not null as paused, q.epoch, j.serial_key is null or j.admitted as has_turn,
      j.provider_tenant, ${OF_ITS_KIND}
    from outbox.jobs j
    left join outbox.queues q on q.name = j.queue
    left join outbox.job_types t on t.name = j.name
    where j.id = any ($1::bigint[])
    order by j.id
    for no key update of j skip locked
  ),
  wanted as (
    select u.*, u.state = 'active' as interrupted, u.interruptions + (u.state = 'active')::int as interruptions_now
    from unlocked u
    join delivered d on d.id = u.id and d.generation = u.generation
    where not u.paused
      and (
        (u.state in ('pending', 'published') and u.scheduled_at <= clock_timestamp() and u.has_turn)
        or (u.state = 'active' and u.locked_until < clock_timestamp())
      )
      and ${IS_CURRENT_DATABASE}
  ),
  gates as materialized (
    select w.id, g.blocked_until, g.reason, g.probing
    from wanted w
    cross join lateral outbox.pass_gate(w.id, w.provider, w.provider_tenant) g
    where not w.interrupted
      and ${isGated('w.provider', 'w.provider_tenant')}
  ),
  parked as (
    update outbox.jobs j
    set scheduled_at = g.blocked_until, reason = g.reason
    from gates g
    where j.id = g.id and g.blocked_until is not null
  ),
  claimable as (
    select w.*, coalesce(g.probing, false) as probing
    from wanted w
    left join gates g on g.id = w.id
    where g.blocked_until is null
  ),
  ${CLAIMED},
  given_up as (
    update outbox.jobs j
    set state = 'failed', reason = 'interrupted_too_often', last_error = 'Its worker died more than ' || $5 || ' times.',
        locked_by = null, locked_until = null, holds_key = false, admitted = false, finished_at = clock_timestamp()
    from claimable c
    where j.id = c.id and c.interruptions_now > $5
    returning j.id
  ),
  noted as (
    insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome)
    select c.id, c.run, c.attempt, c.locked_by, c.started_at, 'interrupted'
    from claimable c
    where c.interrupted
    on conflict do nothing
  )
  ${SELECT_CLAIMED}
  union all
  -- Of all others, the row as it was before the claim.
  select
    d.id, j.generation, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
    null, j.state, q.paused_at is not null, w.blocked_until is not null, g.id is not null,
    extract(epoch from coalesce(w.blocked_until, j.scheduled_at))::float8 * 1000,
    extract(epoch from j.locked_until)::float8 * 1000, extract(epoch from clock_timestamp())::float8 * 1000,
    m.restore_counter
  from delivered d
  join outbox.meta m on m.only_row
  left join outbox.jobs j on j.id = d.id
  left join outbox.queues q on q.name = j.queue
  left join gates w on w.id = d.id and w.blocked_until is not null
  left join given_up g on g.id = d.id
  where d.id not in (select c.id from claimed c)`;

interface OfEveryRow {
  id: string;
  nowMs: number;
  restoreCounter: string;
}

interface ClaimedRow extends ClaimedJob, OfEveryRow {}

/** A row that is not ours, as it was before; without a generation there is no row, and everything else is null, too. */
interface OtherRow extends OfEveryRow {
  run: null;
  givenUp: boolean;
  generation: number | null;
  state: string;
  paused: boolean;
  parked: boolean;
  scheduledMs: number;
  lockedUntilMs: number | null;
}

/** One row of the answer, one per id. */
type ClaimRow = ClaimedRow | OtherRow;

export interface ClaimOptions {
  pool: Pool;
  /** Shown in `locked_by`. */
  workerId: string;
  leaseMs: number;
  maxBatch: number;
  restores: Pick<RestoreWatch, 'highest' | 'found'>;
}

/** Returns a function that claims one delivered job; calls made together share a statement. Rejects only when Postgres does. */
export function createClaim(options: ClaimOptions): (delivery: Delivery) => Promise<Verdict> {
  const { maxBatch } = options;
  const askUnhindered = microBatch({
    maxSize: maxBatch,
    runBatch: (asked: Delivery[]) => claimUnhindered(asked, options),
  });
  // Apart from it: what was claimed runs whatever becomes of the others.
  const askAny = microBatch({ maxSize: maxBatch, runBatch: (asked: Delivery[]) => claimAny(asked, options) });
  const ask = async (delivery: Delivery) => (await askUnhindered(delivery)) ?? (await askAny(delivery));
  return async (delivery) => {
    for (const pauseMs of BUSY_PAUSES_MS) {
      const verdict = await ask(delivery);
      if (verdict.kind !== 'later' || verdict.reason !== 'busy') return verdict;
      await wait(pauseMs);
    }
    return ask(delivery);
  };
}

/** Undefined for what was not claimed. */
async function claimUnhindered(deliveries: Delivery[], options: ClaimOptions): Promise<(Verdict | undefined)[]> {
  const { restores } = options;
  const { highest } = restores;
  const rows = await send<ClaimedRow>(CLAIM_UNHINDERED, deliveries, highest, options);
  if (rows[0]) restores.found(rows[0].restoreCounter, highest); // of an older database there are none
  const claimed = new Map(rows.map((row) => [jobIdOf(row), row]));
  return deliveries.map((delivery): Verdict | undefined => {
    const job = claimed.get(jobIdOf(delivery));
    // A job delivered twice to this very batch (BullMQ took the first for stalled) has one run: one of them has it.
    claimed.delete(jobIdOf(delivery));
    return job && { kind: 'run', job };
  });
}

async function claimAny(deliveries: Delivery[], options: ClaimOptions): Promise<Verdict[]> {
  const { restores, leaseMs } = options;
  const asked = new Map(deliveries.map((delivery) => [jobIdOf(delivery), delivery]));
  const { highest } = restores;
  const rows = await send<ClaimRow>(CLAIM, [...asked.values()], highest, options);
  const [{ nowMs, restoreCounter } = { nowMs: 0, restoreCounter: highest }] = rows;
  if (!restores.found(restoreCounter, highest)) {
    return deliveries.map(() => ({ kind: 'later', atMs: nowMs + RESTORED_RETRY_MS, reason: 'restored' }));
  }
  const byId = new Map(rows.map((row) => [row.id, row]));
  return deliveries.map((delivery): Verdict => {
    const isFirst = asked.delete(jobIdOf(delivery));
    if (!isFirst) return { kind: 'later', atMs: nowMs + leaseMs, reason: 'leased' };
    return verdictOf(delivery, byId.get(delivery.id));
  });
}

async function send<Row extends ClaimRow>(
  statement: string,
  deliveries: Delivery[],
  highest: string,
  { pool, workerId, leaseMs }: ClaimOptions,
): Promise<Row[]> {
  const { rows } = await pool.query<Row & Record<string, unknown>>(statement, [
    deliveries.map(({ id }) => id),
    deliveries.map(({ generation }) => generation),
    workerId,
    leaseMs,
    MAX_INTERRUPTIONS,
    highest,
  ]);
  reached('claim.committed');
  return rows;
}

/** As BullMQ knows it. */
function jobIdOf({ id, generation }: Delivery): string {
  return `${id}-${generation}`;
}

function verdictOf(delivery: Delivery, row: ClaimRow | undefined): Verdict {
  if (!row || row.generation === null) return { kind: 'drop', reason: 'missing' };
  if (row.run === null && row.givenUp) return { kind: 'drop', reason: 'interrupted_too_often' };
  if (row.generation !== delivery.generation) return { kind: 'drop', reason: 'superseded' };
  if (row.run !== null) return { kind: 'run', job: row };

  switch (row.state) {
    case 'pending':
    case 'published':
      if (row.paused) return { kind: 'later', atMs: row.nowMs + PAUSED_RETRY_MS, reason: 'paused' };
      if (row.parked) return { kind: 'later', atMs: row.scheduledMs, reason: 'parked' };
      return row.scheduledMs > row.nowMs
        ? { kind: 'later', atMs: row.scheduledMs, reason: 'not_due' }
        : { kind: 'later', atMs: row.nowMs + BUSY_RETRY_MS, reason: 'busy' };
    case 'active':
      // Its lease is over, and only the pause keeps it from being claimed; a held one comes back when its lease ends.
      if (row.paused && (row.lockedUntilMs ?? 0) <= row.nowMs) {
        return { kind: 'later', atMs: row.nowMs + PAUSED_RETRY_MS, reason: 'paused' };
      }
      return { kind: 'later', atMs: Math.max(row.lockedUntilMs ?? 0, row.nowMs + BUSY_RETRY_MS), reason: 'leased' };
    default:
      return { kind: 'drop', reason: 'finished' };
  }
}

import { microBatch, reached, type Pool, type Queryable } from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import type { Ending } from './ending.ts';

/**
 * Ends runs. The fence is `run`: a row that another run has claimed since is not touched. Locked rows are skipped, in
 * order of id, as in the claim. A crash before the commit leaves the row active, to be claimed again when its lease ends;
 * after it, the row is ended and BullMQ's redelivery is dropped or told when to come back.
 */
const FINISH = /* sql */ `
  with ended as (
    select e.*
    from unnest(
      $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::int[],
      $10::boolean[], $11::text[]
    ) as e (id, run, state, outcome, reason, error, result, delay_ms, attempts_returned, undecided, progress)
  ),
  held as (
    select
      j.id, j.attempt, j.locked_by, j.started_at,
      -- Who asked to cancel does not want another attempt, unless one has to find out what became of a call.
      e.delay_ms is not null and j.cancel_requested_at is not null and not e.undecided as cancelled
    from outbox.jobs j
    join ended e on e.id = j.id and e.run = j.run
    where j.state = 'active'
    order by j.id
    for no key update of j skip locked
  ),
  finished as (
    update outbox.jobs j
    set state = case when h.cancelled then 'cancelled' else e.state end,
        attempt = h.attempt - e.attempts_returned,
        scheduled_at = case
          when e.delay_ms is null then j.scheduled_at else clock_timestamp() + e.delay_ms * interval '1 ms'
        end,
        reason = case when h.cancelled then j.reason else e.reason end,
        last_error = coalesce(e.error, j.last_error),
        result = coalesce(e.result::jsonb, j.result),
        progress = coalesce(e.progress::jsonb, j.progress),
        locked_by = null,
        locked_until = null,
        finished_at = case when e.delay_ms is null or h.cancelled then clock_timestamp() end,
        holds_key = j.holds_key and e.delay_ms is not null and not h.cancelled,
        admitted = j.admitted and e.delay_ms is not null and not h.cancelled
    from held h
    join ended e on e.id = h.id
    where j.id = h.id
    returning
      e.run, j.scheduled_at, h.cancelled, j.cancel_requested_at is not null as cancel_requested,
      case when h.cancelled then j.reason end as cancelled_because
  ),
  noted as (
    insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome, reason, error)
    select
      h.id, e.run, h.attempt, h.locked_by, h.started_at, case when h.cancelled then 'cancelled' else e.outcome end,
      e.reason, e.error
    from held h
    join ended e on e.id = h.id
  )
  select
    f.run, true as finished, false as held, f.cancel_requested as "cancelRequested",
    extract(epoch from f.scheduled_at)::float8 * 1000 as "scheduledMs",
    case when f.cancelled then 'cancelled' end as "otherOutcome", f.cancelled_because as "otherReason"
  from finished f`;

/** What became of runs that were not ended so: read afterwards, since nearly all are. */
const NOT_FINISHED = /* sql */ `
  select
    e.run, false as finished, coalesce(j.run = e.run and j.state = 'active', false) as held, false as "cancelRequested",
    extract(epoch from j.scheduled_at)::float8 * 1000 as "scheduledMs", a.outcome as "otherOutcome", a.reason as "otherReason"
  from unnest($1::bigint[], $2::bigint[]) as e (id, run)
  left join outbox.jobs j on j.id = e.id
  left join outbox.attempts a on a.job_id = e.id and a.run = e.run and a.outcome <> 'interrupted'`;

interface FinishRow {
  run: string;
  finished: boolean;
  /** Of one that is not finished: this very run has it still. */
  held: boolean;
  cancelRequested: boolean;
  scheduledMs: number;
  /** How it has ended, if not as asked. */
  otherOutcome: string | null;
  otherReason: string | null;
}

export interface FinishRequest {
  job: ClaimedJob;
  ending: Exclude<Ending, { kind: 'lost' }>;
  /** True when a call of this row may or may not have been carried out: then it comes back even if it was cancelled. */
  undecided?: boolean;
  /** What the run reported last, if that is not in the row yet. */
  progress?: unknown;
}

/**
 * - `finished`: written by this call. `scheduledMs` (epoch, database clock) says when a retried or parked row is due;
 *   `cancelRequested`, that a cancel committed before it.
 * - `otherwise`: it was ended otherwise than asked; `outcome` and `reason` say how. Either an earlier call did it whose
 *   answer got lost, or the row was cancelled and does not come back.
 * - `busy`: another transaction has the row locked; ask again.
 * - `lost`: another run holds the row.
 */
export type FinishResult =
  | { kind: 'finished'; scheduledMs: number; cancelRequested: boolean }
  | { kind: 'otherwise'; scheduledMs: number; outcome: string; reason: string | null }
  | { kind: 'busy' }
  | { kind: 'lost' };

/** Ends several runs in one statement, on `db`'s transaction if it is one. Safe to repeat. */
export async function finishAll(db: Queryable, requests: FinishRequest[]): Promise<FinishResult[]> {
  const columns = requests.map(toColumns);
  const { rows } = await db.query<FinishRow & Record<string, unknown>>(
    FINISH,
    COLUMNS.map((name) => columns.map((column) => column[name])),
  );
  const byRun = new Map(rows.map((row) => [row.run, row]));
  const others = requests.map(({ job }) => job).filter(({ run }) => !byRun.has(run));
  if (others.length > 0) {
    const ids = [others.map(({ id }) => id), others.map(({ run }) => run)];
    const { rows: found } = await db.query<FinishRow & Record<string, unknown>>(NOT_FINISHED, ids);
    for (const row of found) byRun.set(row.run, row);
  }
  return requests.map(({ job }): FinishResult => {
    const row = byRun.get(job.run);
    if (row?.otherOutcome) {
      const { scheduledMs, otherOutcome: outcome, otherReason: reason } = row;
      return { kind: 'otherwise', scheduledMs, outcome, reason };
    }
    if (row?.finished) {
      return { kind: 'finished', scheduledMs: row.scheduledMs, cancelRequested: row.cancelRequested };
    }
    return row?.held ? { kind: 'busy' } : { kind: 'lost' };
  });
}

/** Returns a function that ends one run; calls made together share a statement. */
export function createFinish(pool: Pool, maxBatch: number): (request: FinishRequest) => Promise<FinishResult> {
  return microBatch({
    maxSize: maxBatch,
    runBatch: async (requests: FinishRequest[]) => {
      const results = await finishAll(pool, requests);
      reached('finish.committed');
      return results;
    },
  });
}

/** In the order of the statement's parameters. */
const COLUMNS = [
  'id',
  'run',
  'state',
  'outcome',
  'reason',
  'error',
  'result',
  'delayMs',
  'attemptsReturned',
  'undecided',
  'progress',
] as const;

type Columns = Record<(typeof COLUMNS)[number], string | number | boolean | null>;

function toColumns({ job, ending, undecided = false, progress }: FinishRequest): Columns {
  const comesBack = ending.kind === 'retried' || ending.kind === 'parked' || ending.kind === 'handed_back';
  return {
    id: job.id,
    run: job.run,
    state: comesBack ? 'published' : ending.kind,
    outcome: ending.kind,
    reason: 'reason' in ending ? (ending.reason ?? null) : null,
    error: 'error' in ending ? describeError(ending.error) : null,
    result: 'result' in ending ? toJson(ending.result) : null,
    delayMs: 'delayMs' in ending ? ending.delayMs : comesBack ? 0 : null,
    attemptsReturned: ending.kind === 'parked' || ending.kind === 'handed_back' ? 1 : 0,
    undecided,
    progress: toJson(progress),
  };
}

/** Longest text kept of an error: enough to see what it was, not a provider's whole page. */
const LONGEST_ERROR = 1_000;

export function describeError(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return clean(text).slice(0, LONGEST_ERROR);
}

/** The result as Postgres and BullMQ can keep it. */
export function storable(result: unknown): unknown {
  const json = toJson(result);
  return json === null || json === undefined ? null : (JSON.parse(json) as unknown);
}

/** What Postgres keeps as JSON; a result that cannot be kept must not keep its row from ending. */
export function toJson(value: unknown): string | null {
  if (value === undefined) return null;
  try {
    return JSON.stringify(value, (_key, part: unknown) => cleaned(part));
  } catch {
    return JSON.stringify({ unserialisable: true });
  }
}

function cleaned(part: unknown): unknown {
  if (typeof part === 'string') return clean(part);
  if (part === null || typeof part !== 'object' || Array.isArray(part)) return part;
  return Object.fromEntries(Object.entries(part).map(([key, value]) => [clean(key), value as unknown]));
}

/** Postgres takes no NUL character and no half of a surrogate pair. */
function clean(text: string): string {
  return text.replaceAll('\0', '').toWellFormed();
}

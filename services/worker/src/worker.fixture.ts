import type { Pool } from '@outbox/core';
import type { ClaimedJob } from './claim.ts';

/** The kind of job that rows have unless a test says otherwise. */
export const JOB = 'test_job';
export const QUEUE = 'test-queue';

export interface JobTypeRequest {
  name?: string;
  unique?: 'waiting' | 'open' | 'none';
  maxAttempts?: number;
  backoffMs?: number;
  timeoutMs?: number;
  provider?: string;
}

/** Catalogues a job in the database, as "migrate" does. */
export async function addJobType(pool: Pool, request: JobTypeRequest = {}): Promise<void> {
  const { name = JOB, unique = 'none', maxAttempts = 3, backoffMs = 100, timeoutMs = 45_000, provider } = request;
  await pool.query(
    `insert into outbox.job_types (
       name, family, queue, unique_mode, max_attempts, backoff_type, backoff, backoff_jitter, timeout, retention,
       failed_retention, provider
     )
     values (
       $1, 'test', $2, $3, $4, 'exponential', $5 * interval '1 ms', 0.25, $6 * interval '1 ms', '1 day', '1 day', $7
     )`,
    [name, QUEUE, unique, maxAttempts, backoffMs, timeoutMs, provider],
  );
}

export interface RowRequest {
  name?: string;
  state?: 'pending' | 'published' | 'active' | 'completed' | 'skipped' | 'failed' | 'cancelled';
  generation?: number;
  attempt?: number;
  maxAttempts?: number;
  interruptions?: number;
  /** From now. Negative: due already. */
  dueInMs?: number;
  /** From now; of an active row. Negative: the lease is over. */
  leaseInMs?: number;
  key?: string;
  holdsKey?: boolean;
  payload?: Record<string, unknown>;
  providerTenant?: string;
}

const ENDED = ['completed', 'skipped', 'failed', 'cancelled'];

/** Puts a row into the state of the request and returns its id. */
export async function addRow(pool: Pool, request: RowRequest = {}): Promise<string> {
  const { state = 'published', dueInMs = -1_000, leaseInMs = 60_000 } = request;
  const isActive = state === 'active';
  const { rows } = await pool.query<{ id: string }>(
    `insert into outbox.jobs (
       name, queue, generation, state, attempt, max_attempts, interruptions, payload, key, holds_key, scheduled_at,
       due_at, run, locked_by, locked_until, started_at, finished_at, provider_tenant
     )
     select
       $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, due, due, case when $11 then outbox.new_run() end,
       case when $11 then 'earlier worker' end, case when $11 then clock_timestamp() + $12 * interval '1 ms' end,
       case when $11 then clock_timestamp() - interval '1 s' end, case when $13 then clock_timestamp() end, $15
     from (select clock_timestamp() + $14 * interval '1 ms' as due) as d
     returning id`,
    [
      request.name ?? JOB,
      QUEUE,
      request.generation ?? 1,
      state,
      request.attempt ?? (isActive ? 1 : 0),
      request.maxAttempts ?? 3,
      request.interruptions ?? 0,
      JSON.stringify(request.payload ?? {}),
      request.key ?? null,
      request.holdsKey ?? false,
      isActive,
      leaseInMs,
      ENDED.includes(state),
      dueInMs,
      request.providerTenant ?? null,
    ],
  );
  return first(rows).id;
}

/** A row as it stands. Instants are epoch milliseconds by the database's clock. */
export interface RowView {
  state: string;
  run: string | null;
  attempt: number;
  interruptions: number;
  holdsKey: boolean;
  lockedBy: string | null;
  reason: string | null;
  lastError: string | null;
  result: unknown;
  progress: unknown;
  dueMs: number;
  lockedUntilMs: number | null;
  finishedMs: number | null;
  nowMs: number;
}

export async function readRow(pool: Pool, id: string): Promise<RowView> {
  const { rows } = await pool.query<RowView & Record<string, unknown>>(
    `select
       state, run, attempt, interruptions, holds_key as "holdsKey", locked_by as "lockedBy", reason,
       last_error as "lastError", result, progress, extract(epoch from scheduled_at)::float8 * 1000 as "dueMs",
       extract(epoch from locked_until)::float8 * 1000 as "lockedUntilMs",
       extract(epoch from finished_at)::float8 * 1000 as "finishedMs",
       extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs"
     from outbox.jobs
     where id = $1`,
    [id],
  );
  return first(rows);
}

export interface AttemptView {
  run: string;
  attempt: number;
  outcome: string;
  worker: string | null;
  reason: string | null;
  error: string | null;
}

/** The attempts of a row that ended, in order. */
export async function readAttempts(pool: Pool, id: string): Promise<AttemptView[]> {
  const { rows } = await pool.query<AttemptView & Record<string, unknown>>(
    'select run, attempt, outcome, worker, reason, error from outbox.attempts where job_id = $1 order by run',
    [id],
  );
  return rows;
}

/** An active row and what its claim returned. */
export async function addActive(pool: Pool, request: Omit<RowRequest, 'state'> = {}): Promise<ClaimedJob> {
  const id = await addRow(pool, { ...request, state: 'active' });
  const { run, attempt } = await readRow(pool, id);
  if (run === null) throw new Error(`Row ${id} has no run`);
  return {
    id,
    generation: request.generation ?? 1,
    run,
    name: request.name ?? JOB,
    queue: QUEUE,
    payload: request.payload ?? {},
    attempt,
    maxAttempts: request.maxAttempts ?? 3,
    timeoutMs: 45_000,
    backoffType: 'exponential',
    backoffMs: 100,
    backoffJitter: 0.25,
    cancelRequested: false,
    callsUnknownSince: null,
    lateMs: 0,
    queuedMs: 0,
    provider: null,
    providerTenant: null,
    probing: false,
  };
}

/** Another worker takes an active row over, as after the end of its lease. Returns its claim. */
export async function takeOver(pool: Pool, job: ClaimedJob): Promise<ClaimedJob> {
  const { rows } = await pool.query<{ run: string }>(
    `update outbox.jobs
     set run = outbox.new_run(), state = 'active', locked_by = 'another worker', started_at = clock_timestamp(),
       locked_until = clock_timestamp() + interval '1 minute'
     where id = $1
     returning run`,
    [job.id],
  );
  return { ...job, run: first(rows).run };
}

export async function requestCancel(pool: Pick<Pool, 'query'>, id: string): Promise<void> {
  await pool.query('update outbox.jobs set cancel_requested_at = now() where id = $1', [id]);
}

export function first<T>(rows: T[]): T {
  const [row] = rows;
  if (row === undefined) throw new Error('No row');
  return row;
}

/** A promise that is kept when the test says so. */
export function createGate(): { opened: Promise<void>; open: () => void } {
  let open = () => undefined as void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

import pg from 'pg';
import { OutboxError } from './errors.ts';
import { withTransaction, type Pool, type Queryable } from './postgres.ts';

/** Who acts: what `outbox.audit` keeps. */
export interface Actor {
  name: string;
  /**
   * `service`, a key of the API; `operator`, a person at a shell; `user` and `admin`, a person whom the host application
   * signed in, by its uuid; `trigger`, whoever knows the secret that starts work.
   */
  role: 'service' | 'operator' | 'user' | 'admin' | 'trigger';
}

/** What a person may do to one job. */
export type JobAction =
  | { kind: 'cancel'; reason: string }
  | { kind: 'retry' }
  | { kind: 'reschedule'; scheduledAt: Date }
  | { kind: 'run-now' };

/** A person found out what became of a call that nobody could tell. */
export interface Resolution {
  outcome: 'confirmed' | 'rejected';
  note: string;
}

/** The SQLSTATEs that the functions of the outbox refuse with. */
const REFUSALS = {
  OB002: 'no_such_job',
  OB003: 'job_is_running',
  OB004: 'job_has_ended',
  OB005: 'key_is_taken',
  OB006: 'no_such_queue',
  OB007: 'no_such_effect',
  OB008: 'effect_is_settled',
  OB012: 'no_such_provider',
} as const;

export type RefusalCode = (typeof REFUSALS)[keyof typeof REFUSALS];

/** The outbox does not allow it; nothing was changed. The message says why, `hint` what to do instead. */
export class RefusedError extends OutboxError {
  readonly code: RefusalCode;
  readonly hint: string | undefined;
  /** Of `key_is_taken`: the job that holds the key, a decimal string. */
  readonly otherJobId: string | undefined;

  constructor(
    code: RefusalCode,
    message: string,
    options: ErrorOptions & { hint?: string | undefined; otherJobId?: string | undefined } = {},
  ) {
    super(message, options);
    this.code = code;
    this.hint = options.hint;
    this.otherJobId = options.otherJobId;
  }
}

const RESOLVE_JOB_ID = /* sql */ `
  select coalesce(
    (select l.job_id from outbox.legacy_ids l where l.legacy_id = $1::uuid),
    outbox.job_id($1::uuid)
  ) as "outboxId"
  limit 1`;

/** The number behind a uuid of ours or of an imported row, else undefined. Whether such a row exists is not looked at. */
export async function resolveJobId(db: Queryable, uuid: string): Promise<string | undefined> {
  const { rows } = await db.query<{ outboxId: string | null }>(RESOLVE_JOB_ID, [uuid]);
  return rows[0]?.outboxId ?? undefined;
}

/**
 * Does `action` to the job with number `id` and writes it into `outbox.audit`, in one transaction. Cancelling what is
 * cancelled already changes nothing and is not written down. Throws `RefusedError` when the job's state does not allow it.
 */
export async function actOnJob(pool: Pool, actor: Actor, id: string, action: JobAction): Promise<void> {
  const { kind, ...detail } = action;
  await refusable(() =>
    withTransaction(pool, async (tx) => {
      if (await apply(tx, id, action)) await audit(tx, actor, kind, id, detail);
    }),
  );
}

const RETRY = /* sql */ `select outbox.redrive(id => $1)`;
const RESCHEDULE = /* sql */ `select outbox.reschedule(id => $1, scheduled_at => $2)`;
const RUN_NOW = /* sql */ `select outbox.run_now(id => $1)`;

/** False when there was nothing to do. */
async function apply(tx: Queryable, id: string, action: JobAction): Promise<boolean> {
  switch (action.kind) {
    case 'cancel':
      return cancel(tx, id, action.reason);
    case 'retry':
      return (await tx.query(RETRY, [id])).rowCount === 1;
    case 'reschedule':
      return (await tx.query(RESCHEDULE, [id, action.scheduledAt])).rowCount === 1;
    case 'run-now':
      return (await tx.query(RUN_NOW, [id])).rowCount === 1;
  }
}

const CANCEL = /* sql */ `select outbox.cancel_jobs(ids => array[$1::bigint], reason => $2)::int as cancelled`;
const READ_STATE = /* sql */ `
  select j.state, j.finished_at is not null as ended from outbox.jobs j where j.id = $1 limit 1`;

async function cancel(tx: Queryable, id: string, reason: string): Promise<boolean> {
  const { rows } = await tx.query<{ cancelled: number }>(CANCEL, [id, reason]);
  if (rows[0]?.cancelled === 1) return true;
  const job = (await tx.query<{ state: string; ended: boolean }>(READ_STATE, [id])).rows[0];
  if (!job) throw new RefusedError('no_such_job', `There is no job ${id}.`);
  if (job.ended && job.state !== 'cancelled') {
    throw new RefusedError('job_has_ended', `Job ${id} has ended (${job.state}).`);
  }
  return false;
}

const FIND_EFFECT_JOB = /* sql */ `select e.job_id as "jobId", e.key from outbox.effects e where e.id = $1 limit 1`;
const RESOLVE_EFFECT = /* sql */ `
  select outbox.resolve_effect(id => $1, outcome => $2, note => $3, resolved_by => $4) as "jobId"`;

/**
 * Settles an unknown effect, and writes that into `outbox.audit`, in one transaction. Gives the number of the job that was
 * enqueued to act on the answer, undefined when none was. Throws `RefusedError`.
 */
export async function resolveEffect(
  pool: Pool,
  actor: Actor,
  id: string,
  { outcome, note }: Resolution,
): Promise<string | undefined> {
  return refusable(() =>
    withTransaction(pool, async (tx) => {
      const { rows } = await tx.query<{ jobId: string | null }>(RESOLVE_EFFECT, [id, outcome, note, actor.name]);
      const enqueued = rows[0]?.jobId ?? undefined;
      const effect = (await tx.query<{ jobId: string; key: string }>(FIND_EFFECT_JOB, [id])).rows[0];
      const detail = { effect: id, key: effect?.key, outcome, note, enqueued };
      await audit(tx, actor, 'resolve-effect', effect?.jobId, detail);
      return enqueued;
    }),
  );
}

const PAUSE_QUEUE = /* sql */ `select outbox.pause_queue(name => $1, paused_by => $2, reason => $3) as changed`;
const RESUME_QUEUE = /* sql */ `select outbox.resume_queue(name => $1) as changed`;

/** Pauses a queue, unless it is paused already; true when it was not. Audited. Throws `RefusedError`. */
export function pauseQueue(pool: Pool, actor: Actor, name: string, reason: string | undefined): Promise<boolean> {
  const values = [name, actor.name, reason ?? null];
  return pauseOrResume(pool, actor, 'pause-queue', { queue: name, reason }, PAUSE_QUEUE, values);
}

/** Lets a queue go on, if it is paused; true when it was. Audited. Throws `RefusedError`. */
export function resumeQueue(pool: Pool, actor: Actor, name: string): Promise<boolean> {
  return pauseOrResume(pool, actor, 'resume-queue', { queue: name }, RESUME_QUEUE, [name]);
}

const PAUSE_PROVIDER = /* sql */ `
  select outbox.pause_provider(name => $1, paused_by => $2, reason => $3) as changed`;
const RESUME_PROVIDER = /* sql */ `select outbox.resume_provider(name => $1) as changed`;

/** Lets no job call a provider, unless that is so already; true when it was not. Audited. Throws `RefusedError`. */
export function pauseProvider(pool: Pool, actor: Actor, name: string, reason: string | undefined): Promise<boolean> {
  const values = [name, actor.name, reason ?? null];
  return pauseOrResume(pool, actor, 'pause-provider', { provider: name, reason }, PAUSE_PROVIDER, values);
}

/** Lets jobs call a provider again, if it is paused; true when it was. Audited. Throws `RefusedError`. */
export function resumeProvider(pool: Pool, actor: Actor, name: string): Promise<boolean> {
  return pauseOrResume(pool, actor, 'resume-provider', { provider: name }, RESUME_PROVIDER, [name]);
}

function pauseOrResume(
  pool: Pool,
  actor: Actor,
  action: string,
  detail: Record<string, unknown>,
  sql: string,
  values: unknown[],
): Promise<boolean> {
  return refusable(() =>
    withTransaction(pool, async (tx) => {
      const { rows } = await tx.query<{ changed: boolean }>(sql, values);
      const changed = rows[0]?.changed ?? false;
      if (changed) await audit(tx, actor, action, undefined, detail);
      return changed;
    }),
  );
}

const AUDIT = /* sql */ `
  insert into outbox.audit (actor, role, action, job_id, detail) values ($1, $2, $3, $4, $5)`;

/** Writes down who did what by hand. Belongs into the transaction that does it. */
export async function audit(
  tx: Queryable,
  { name, role }: Actor,
  action: string,
  jobId: string | undefined,
  detail: Record<string, unknown>,
): Promise<void> {
  await tx.query(AUDIT, [name, role, action, jobId ?? null, JSON.stringify(detail)]);
}

async function refusable<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toRefusal(error) ?? error;
  }
}

function toRefusal(error: unknown): RefusedError | undefined {
  if (!(error instanceof pg.DatabaseError)) return undefined;
  const code = Object.entries(REFUSALS).find(([sqlstate]) => sqlstate === error.code)?.[1];
  return code && new RefusedError(code, error.message, { cause: error, hint: error.hint, otherJobId: error.detail });
}

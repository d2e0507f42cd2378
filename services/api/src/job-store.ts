import { maskPhones, maskPhonesIn, type Queryable } from '@outbox/core';

/** A row of outbox.jobs as the API shows it. */
export interface JobRecord {
  /** The uuid callers know it by: of an imported row the one it had before. */
  id: string;
  /** Its number inside, as BullMQ ids and logs have it; a decimal string. */
  outboxId: string;
  name: string;
  queue: string;
  key: string | null;
  state: string;
  attempt: number;
  maxAttempts: number;
  interruptions: number;
  generation: number;
  priority: number;
  payload: Record<string, unknown>;
  ownerId: string | null;
  scheduledAt: Date;
  dueAt: Date;
  createdAt: Date;
  publishedAt: Date | null;
  startedAt: Date | null;
  /** Set while the job is still to end as cancelled, and after that. */
  cancelRequestedAt: Date | null;
  finishedAt: Date | null;
  lastError: string | null;
  reason: string | null;
  result: unknown;
}

export interface AttemptRecord {
  attempt: number;
  outcome: string;
  reason: string | null;
  error: string | null;
  worker: string | null;
  startedAt: Date;
  finishedAt: Date;
}

/** Without the request: it holds texts and numbers. */
export interface EffectRecord {
  key: string;
  provider: string;
  state: string;
  reference: string | null;
  reason: string | null;
  startedAt: Date;
  settledAt: Date | null;
}

const FIND_JOB = /* sql */ `
  select
    coalesce(l.legacy_id, outbox.job_uuid(j.id)) as id, j.id as "outboxId", j.name, j.queue, j.key, j.state, j.attempt,
    j.max_attempts as "maxAttempts", j.interruptions, j.generation, j.priority, j.payload, j.owner_id as "ownerId",
    j.scheduled_at as "scheduledAt", j.due_at as "dueAt", j.created_at as "createdAt",
    j.published_at as "publishedAt", j.started_at as "startedAt",
    j.cancel_requested_at as "cancelRequestedAt", j.finished_at as "finishedAt", j.last_error as "lastError", j.reason, j.result
  from outbox.jobs j
  left join outbox.legacy_ids l on l.job_id = j.id
  where j.id = $1
  limit 1`;

/** The row with this number, or undefined. Phone numbers in its texts are masked. */
export async function findJob(db: Queryable, outboxId: string): Promise<JobRecord | undefined> {
  const { rows } = await db.query<JobRecord>(FIND_JOB, [outboxId]);
  const row = rows[0];
  if (!row) return undefined;
  const { lastError, reason, result } = row;
  return { ...row, lastError: maskPhones(lastError), reason: maskPhones(reason), result: maskPhonesIn(result) };
}

const LIST_ATTEMPTS = /* sql */ `
  select
    a.attempt, a.outcome, a.reason, a.error, a.worker, a.started_at as "startedAt", a.finished_at as "finishedAt"
  from outbox.attempts a
  where a.job_id = $1
  order by a.run desc
  limit 100`;

/** The newest 100 attempts, the newest first. Phone numbers are masked. */
export async function listAttempts(db: Queryable, outboxId: string): Promise<AttemptRecord[]> {
  const { rows } = await db.query<AttemptRecord>(LIST_ATTEMPTS, [outboxId]);
  return rows.map((row) => ({ ...row, reason: maskPhones(row.reason), error: maskPhones(row.error) }));
}

const LIST_EFFECTS = /* sql */ `
  select
    e.key, e.provider, e.state, e.reference, e.reason, e.started_at as "startedAt", e.settled_at as "settledAt"
  from outbox.effects e
  where e.job_id = $1
  order by e.id
  limit 1000`;

/** The first 1000 effects, in the order they were started. Phone numbers are masked. */
export async function listEffects(db: Queryable, outboxId: string): Promise<EffectRecord[]> {
  const { rows } = await db.query<EffectRecord>(LIST_EFFECTS, [outboxId]);
  return rows.map((row) => ({ ...row, reason: maskPhones(row.reason) }));
}

import { maskPhones, type Queryable } from '@outbox/core';

/** A row of outbox.effects as the API shows it. Without the request: it holds texts and numbers. */
export interface Effect {
  /** A decimal string. */
  id: string;
  key: string;
  /** The uuid of the job that made the call; it may have been pruned since. */
  jobId: string;
  provider: string;
  tenant: string | null;
  state: string;
  reference: string | null;
  reason: string | null;
  note: string | null;
  resolvedBy: string | null;
  startedAt: Date;
  deadlineAt: Date;
  settledAt: Date | null;
}

export const EFFECT_STATES = ['started', 'confirmed', 'rejected', 'unknown'] as const;

const COLUMNS = /* sql */ `
  e.id, e.key, coalesce(l.legacy_id, outbox.job_uuid(e.job_id)) as "jobId", e.provider, e.tenant, e.state, e.reference,
  e.reason, e.note, e.resolved_by as "resolvedBy", e.started_at as "startedAt", e.deadline_at as "deadlineAt",
  e.settled_at as "settledAt"`;

const LIST_EFFECTS = /* sql */ `
  select ${COLUMNS}
  from outbox.effects e
  left join outbox.legacy_ids l on l.job_id = e.job_id
  where $1::text is null or e.state = $1
  order by e.id desc
  limit $2`;

/** The newest effects of all jobs, in `state` if it is given. Phone numbers are masked. */
export async function listAllEffects(
  db: Queryable,
  { state, limit }: { state?: string | undefined; limit: number },
): Promise<Effect[]> {
  const { rows } = await db.query<Effect & Record<string, unknown>>(LIST_EFFECTS, [state ?? null, limit]);
  return rows.map(masked);
}

const FIND_EFFECT = /* sql */ `
  select ${COLUMNS}
  from outbox.effects e
  left join outbox.legacy_ids l on l.job_id = e.job_id
  where e.id = $1
  limit 1`;

export async function findEffect(db: Queryable, id: string): Promise<Effect | undefined> {
  const { rows } = await db.query<Effect & Record<string, unknown>>(FIND_EFFECT, [id]);
  return rows[0] && masked(rows[0]);
}

function masked(effect: Effect): Effect {
  return { ...effect, reason: maskPhones(effect.reason), note: maskPhones(effect.note) };
}

import type { JobDefinition, PayloadOf } from './define-job.ts';
import type { EnqueueRequest } from './job-handler.ts';
import type { Queryable } from './postgres.ts';

export interface Enqueued {
  /** Row id, as a decimal string. */
  id: string;
  isNew: boolean;
}

const ENQUEUE = /* sql */ `
  select id, is_new
  from outbox.enqueue(
    name => $1, key => $2, payload => $3, owner_id => $4, scheduled_at => $5, priority => $6, max_attempts => $7,
    idempotency_key => $8, serial_key => $9, traceparent => $10
  )
  limit 1`;

/**
 * Adds one job through `outbox.enqueue`, inside whatever transaction `db` is. A duplicate (by key or idempotency key)
 * returns the existing row's id with `isNew: false`. Throws SQLSTATE OB001 for a name nobody defined.
 */
export async function enqueue(db: Queryable, name: string, request: EnqueueRequest): Promise<Enqueued> {
  const { rows } = await db.query<{ id: string; is_new: boolean }>(ENQUEUE, [
    name,
    request.key ?? null,
    JSON.stringify(request.payload),
    request.ownerId ?? null,
    request.scheduledAt ?? null,
    request.priority ?? null,
    request.maxAttempts ?? null,
    request.idempotencyKey ?? null,
    request.serialKey ?? null,
    request.traceparent ?? null,
  ]);
  const row = rows[0];
  if (!row) throw new Error(`outbox.enqueue returned no row for ${name}`);
  return { id: row.id, isNew: row.is_new };
}

/** The same for a job of the catalogue: what the definition says of its payload (key, serial key) need not be said. */
export async function enqueueDefined<D extends JobDefinition>(
  db: Queryable,
  definition: D,
  request: EnqueueRequest<PayloadOf<D>>,
): Promise<Enqueued> {
  const key = request.key ?? definition.key(request.payload);
  const serialKey = request.serialKey ?? definition.serialKey?.(request.payload);
  return enqueue(db, definition.name, {
    ...request,
    ...(key === undefined ? {} : { key }),
    ...(serialKey === undefined ? {} : { serialKey }),
  });
}

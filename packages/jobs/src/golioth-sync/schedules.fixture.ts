import { randomUUID } from 'node:crypto';
import type { Queryable } from '@outbox/core';

/** Rows of the host application for tests; only tests import this. */
export interface Integration {
  id: string;
  userId: string;
}

export async function createIntegration(
  db: Queryable,
  { projectId = 'plant', apiKey = 'key-of-plant' }: { projectId?: string | null; apiKey?: string | null } = {},
): Promise<Integration> {
  const integration = { id: randomUUID(), userId: randomUUID() };
  await db.query('insert into auth.users (id) values ($1)', [integration.userId]);
  await db.query(
    `insert into public.integrations (id, user_id, name, project_id, api_key) values ($1, $2, 'Plant', $3, $4)`,
    [integration.id, integration.userId, projectId, apiKey],
  );
  return integration;
}

export interface ScheduleWish {
  id?: string;
  everyMinutes?: number;
  window?: readonly [string | null, string | null];
  timezone?: string;
  enabled?: boolean;
  createdAt?: string;
}

/** Inserts schedules of one integration by one statement and returns their ids. Every hour, from now on, unless told. */
export async function insertSchedules(db: Queryable, integrationId: string, wishes: ScheduleWish[]): Promise<string[]> {
  const rows = wishes.map(({ window = [null, null], ...wish }) => ({ ...wish, opens: window[0], closes: window[1] }));
  const { rows: inserted } = await db.query<{ id: string }>(
    /* sql */ `
    insert into public.auto_sync_schedules (
      id, integration_id, frequency_minutes, time_window_start, time_window_end, timezone, enabled, created_at
    )
    select
      coalesce(w.id, gen_random_uuid()), $1, coalesce(w."everyMinutes", 60), w.opens, w.closes,
      coalesce(w.timezone, 'UTC'), coalesce(w.enabled, true), coalesce(w."createdAt", now())
    from jsonb_to_recordset($2) as w (
      id uuid, "everyMinutes" int, opens time, closes time, timezone text, enabled boolean, "createdAt" timestamptz
    )
    returning id`,
    [integrationId, JSON.stringify(rows)],
  );
  return inserted.map(({ id }) => id);
}

/** Inserts one and returns its id. */
export async function insertSchedule(db: Queryable, integrationId: string, wish: ScheduleWish = {}): Promise<string> {
  const [id] = await insertSchedules(db, integrationId, [wish]);
  if (id === undefined) throw new Error('No schedule was inserted.');
  return id;
}

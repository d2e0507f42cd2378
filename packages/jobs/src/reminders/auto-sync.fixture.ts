import { randomUUID } from 'node:crypto';
import type { Queryable } from '@outbox/core';

/** Rows of the host application for tests; only tests import this. */
export interface Crew {
  id: string;
  organizerId: string;
  /** In the order of the phones they were made with, which is the order reminders go out in. */
  contactIds: string[];
}

/** One member per phone; null has none. */
export async function createCrew(db: Queryable, phones: (string | null)[] = []): Promise<Crew> {
  const contactIds = phones.map(() => randomUUID()).sort();
  const crew = { id: randomUUID(), organizerId: randomUUID(), contactIds };
  await db.query('insert into auth.users (id) values ($1)', [crew.organizerId]);
  await db.query('insert into public.profiles (id) values ($1)', [crew.organizerId]);
  await db.query(`insert into public.crews (id, owner_id, name) values ($1, $2, 'Crew')`, [crew.id, crew.organizerId]);
  await db.query(
    /* sql */ `
    with members as (
      insert into public.contacts (id, owner_id, name, phone)
      select m.id, $2, 'Member ' || m.position, m.phone
      from unnest($3::uuid[], $4::text[]) with ordinality as m (id, phone, position)
    )
    insert into public.crew_members (crew_id, contact_id)
    select $1, id from unnest($3::uuid[]) as m (id)`,
    [crew.id, crew.organizerId, contactIds, phones],
  );
  return crew;
}

export interface AutoSyncWish {
  id?: string;
  status?: 'running' | 'paused' | 'stopped' | 'completed';
  responseGoal?: 'everyone' | 'critical_mass';
  metadata?: unknown;
}

/** Inserts auto syncs of one crew by one statement, as the application does, and returns their ids. */
export async function insertAutoSyncs(db: Queryable, crew: Crew, wishes: AutoSyncWish[]): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    /* sql */ `
    insert into public.auto_syncs (id, organizer_id, crew_id, event_name, status, response_goal, metadata)
    select
      coalesce(w.id, gen_random_uuid()), $1, $2, 'Summer tour', coalesce(w.status, 'running'),
      coalesce(w."responseGoal", 'everyone'), coalesce(w.metadata, '{}')
    from jsonb_to_recordset($3) as w (
      id uuid, status public.auto_sync_status, "responseGoal" public.auto_sync_response_goal, metadata jsonb
    )
    returning id`,
    [crew.organizerId, crew.id, JSON.stringify(wishes)],
  );
  return rows.map(({ id }) => id);
}

/** Inserts one and returns its id. */
export async function insertAutoSync(db: Queryable, crew: Crew, wish: AutoSyncWish = {}): Promise<string> {
  const [id] = await insertAutoSyncs(db, crew, [wish]);
  if (id === undefined) throw new Error('No auto sync was inserted.');
  return id;
}

/** These members answer. */
export async function respond(db: Queryable, autoSyncId: string, contactIds: (string | undefined)[]): Promise<void> {
  await db.query(
    /* sql */ `
    insert into public.auto_sync_responses (auto_sync_id, contact_id, response)
    select $1, contact_id, 'yes' from unnest($2::uuid[]) as r (contact_id)`,
    [autoSyncId, contactIds],
  );
}

export async function setStatus(db: Queryable, autoSyncId: string, status: AutoSyncWish['status']): Promise<void> {
  await db.query('update public.auto_syncs set status = $2 where id = $1', [autoSyncId, status]);
}

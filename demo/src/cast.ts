import type { Queryable } from '@outbox/core';

/** The people of the demonstration. The numbers are reserved for fiction. */
export const ORGANIZER = '0de00000-0000-4000-8000-000000000001';
const CREW = '0de00000-0000-4000-8000-0000000000c0';

const MEMBERS = [
  { id: '0de00000-0000-4000-8000-0000000000a1', name: 'Ada', phone: '+15555550101' },
  { id: '0de00000-0000-4000-8000-0000000000a2', name: 'Ben', phone: '+15555550102' },
  { id: '0de00000-0000-4000-8000-0000000000a3', name: 'Chloe', phone: '+15555550103' },
  { id: '0de00000-0000-4000-8000-0000000000a4', name: 'Dan', phone: '+15555550104' },
];

/** Puts an organizer and a crew of four into the host's tables, unless they are there. */
export async function prepareCast(db: Queryable): Promise<void> {
  await db.query(
    /* sql */ `insert into auth.users (id, email) values ($1, 'maya@example.com') on conflict do nothing`,
    [ORGANIZER],
  );
  await db.query(/* sql */ `insert into public.profiles (id, full_name) values ($1, 'Maya') on conflict do nothing`, [
    ORGANIZER,
  ]);
  await db.query(
    /* sql */ `insert into public.crews (id, owner_id, name) values ($1, $2, 'Climbing') on conflict do nothing`,
    [CREW, ORGANIZER],
  );
  for (const { id, name, phone } of MEMBERS) {
    await db.query(
      /* sql */ `insert into public.contacts (id, owner_id, name, phone) values ($1, $2, $3, $4) on conflict do nothing`,
      [id, ORGANIZER, name, phone],
    );
    await db.query(
      /* sql */ `insert into public.crew_members (crew_id, contact_id) values ($1, $2) on conflict do nothing`,
      [CREW, id],
    );
  }
}

/** What a person types to see the same with an auto sync of their own. */
export const INSERT_YOUR_OWN =
  'insert into auto_syncs (organizer_id, crew_id, event_name) ' +
  "select owner_id, id, 'My own event' from crews limit 1";

/** Maya asks her crew about an event; returns the auto sync's id. */
export async function startAutoSync(db: Queryable, eventName: string): Promise<string> {
  const { rows } = await db.query<{ id: string }>(
    /* sql */ `insert into public.auto_syncs (organizer_id, crew_id, event_name) values ($1, $2, $3) returning id`,
    [ORGANIZER, CREW, eventName],
  );
  const id = rows[0]?.id;
  if (!id) throw new Error('the auto sync was not inserted');
  return id;
}

/** One member answers. */
export async function answer(db: Queryable, autoSyncId: string): Promise<void> {
  await db.query(
    /* sql */ `
    insert into public.auto_sync_responses (auto_sync_id, contact_id, response)
    select $1, id, 'yes' from public.contacts where id = $2`,
    [autoSyncId, MEMBERS[3]?.id],
  );
}

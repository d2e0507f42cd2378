import type { Pool } from '@outbox/core';

/** Inserts `count` auto syncs, each with a crew of its own with one member: each is texted under a number of its own. */
export async function insertAutoSyncs(pool: Pool, count: number): Promise<void> {
  await pool.query(
    `with organizer as (
       insert into auth.users default values returning id
     ), profile as (
       insert into profiles (id) select id from organizer returning id
     ), members as (
       select p.id as owner, gen_random_uuid() as crew, gen_random_uuid() as contact, n
       from profile p, generate_series(1, $1::int) n
     ), crew as (
       insert into crews (id, owner_id, name) select crew, owner, 'Crew ' || n from members
     ), contact as (
       insert into contacts (id, owner_id, name, phone)
       select contact, owner, 'Member ' || n, '+1555555' || lpad(n::text, 4, '0') from members
     ), member as (
       insert into crew_members (crew_id, contact_id) select crew, contact from members
     )
     insert into auto_syncs (organizer_id, crew_id, event_name) select owner, crew, 'Event ' || n from members`,
    [count],
  );
}

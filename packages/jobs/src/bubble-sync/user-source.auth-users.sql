-- user-source.sql for Supabase's auth.users, where the users' table is not ours to change: names come from
-- raw_user_meta_data, and Bubble's id is kept in a table of the family's own.
-- The first part runs as the login role, the second as outbox_owner.

create schema if not exists bubble authorization outbox_owner;

-- What users are called in Bubble. Without a foreign key: auth.users may be beyond what we may refer to.
create table if not exists bubble.links (
  user_id uuid primary key,
  bubble_id text not null,
  synced_at timestamptz not null
);
alter table bubble.links owner to outbox_owner;

-- Owned by the login role, which passes the row level security of auth.users (Supabase's postgres does); outbox_owner cannot
-- be given a policy there. Every sign-in moves updated_at, so created_at it is: the sweep finds sign-ups that were missed.
create or replace view bubble.user_source as
select
  u.id as user_id,
  u.email::text as email,
  l.bubble_id,
  jsonb_build_object(
    'email', u.email, 'first_name', u.raw_user_meta_data ->> 'first_name', 'last_name', u.raw_user_meta_data ->> 'last_name',
    'phone', u.phone
  ) as fields,
  u.created_at as changed_at,
  l.synced_at
from auth.users u
left join bubble.links l on l.user_id = u.id;
grant select on bubble.user_source to outbox_owner with grant option;
grant usage on schema auth to outbox_owner;

set local role outbox_owner;

-- Notes what the user is called in Bubble; false when there is no such user any more. Says the same when said twice.
create or replace function bubble.record_sync(user_id uuid, bubble_id text) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with recorded as (
    insert into bubble.links (user_id, bubble_id, synced_at)
    select u.user_id, record_sync.bubble_id, now()
    from bubble.user_source u
    where u.user_id = record_sync.user_id
    on conflict (user_id) do update set bubble_id = excluded.bubble_id, synced_at = excluded.synced_at
    returning 1
  )
  select exists (select from recorded);
end;

reset role;

-- Sign-ups, and changes of what Bubble has. A deleted user's open job ends.
select outbox.capture(
  name => 'bubble.users',
  table_name => 'auth.users',
  job_name => 'bubble_user_sync',
  key => 'row.id::text',
  columns => '{email,phone,raw_user_meta_data}',
  payload => $$jsonb_build_object('userId', row.id)$$,
  owner_id => 'row.id',
  serial_key => $$'bubble_user:' || row.id$$,
  reason => 'user_deleted'
);

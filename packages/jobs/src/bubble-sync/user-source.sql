-- Everything this family knows about the host application's users: no other file names their table. A host with another
-- table, or with other fields in Bubble, adapts this file; docs/families/bubble.md shows it for auth.users.
-- The first part runs as the login role, the second as outbox_owner.

create schema if not exists bubble authorization outbox_owner;
grant usage on schema public to outbox_owner;
grant select on public.users to outbox_owner;
grant update (bubble_id, bubble_synced_at) on public.users to outbox_owner;

do $$
begin
  -- With row level security on the table, now or later, the family works for every user.
  if not exists (
    select from pg_policy p
    where p.polrelid = 'public.users'::regclass and p.polname = 'outbox_owner_works_for_users'
  ) then
    create policy outbox_owner_works_for_users on public.users for all to outbox_owner using (true) with check (true);
  end if;
end $$;

set local role outbox_owner;

-- One row per user: what Bubble is to have of it. fields are named as Bubble's Data API shows them; our id is added by the
-- handler (BUBBLE_ID_FIELD). changed_at and synced_at say whether the user still has to be copied: the sweep goes by them.
create or replace view bubble.user_source as
select
  u.id as user_id,
  u.email,
  u.bubble_id,
  jsonb_build_object('email', u.email, 'first_name', u.first_name, 'last_name', u.last_name, 'phone', u.phone) as fields,
  u.updated_at as changed_at,
  u.bubble_synced_at as synced_at
from public.users u;

-- Writes back what the user is called in Bubble; false when there is no such user any more. Says the same when said twice.
-- Part of the transaction that ends the job (outbox.current_job), which the capture below knows not to act on.
create or replace function bubble.record_sync(user_id uuid, bubble_id text) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with recorded as (
    update public.users u
    set bubble_id = record_sync.bubble_id, bubble_synced_at = now()
    where u.id = record_sync.user_id
    returning 1
  )
  select exists (select from recorded);
end;

reset role;

-- Sign-ups, and changes of what Bubble has. A deleted user's open job ends.
select outbox.capture(
  name => 'bubble.users',
  table_name => 'public.users',
  job_name => 'bubble_user_sync',
  key => 'row.id::text',
  columns => '{email,first_name,last_name,phone}',
  payload => $$jsonb_build_object('userId', row.id)$$,
  owner_id => 'row.id',
  serial_key => $$'bubble_user:' || row.id$$,
  reason => 'user_deleted'
);

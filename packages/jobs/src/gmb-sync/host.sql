-- Everything this family knows about the host application's tables. A host with other tables adapts these views and
-- functions; nothing else names a host table. The first part runs as the login role, the second as outbox_owner.

create schema if not exists gmb authorization outbox_owner;
grant usage on schema public to outbox_owner;
grant select on public.gmb_accounts, public.oauth_tokens, public.gmb_locations, public.gmb_reviews to outbox_owner;
grant update (account_id, updated_at) on public.gmb_accounts to outbox_owner;
grant update (refresh_token, access_token, expires_at, status, last_error, updated_at) on public.oauth_tokens
  to outbox_owner;
grant insert, update on public.gmb_locations, public.gmb_reviews to outbox_owner;
grant insert on public.error_logs to outbox_owner;
-- What the host's own functions write, where they do not run as their owner.
grant select, insert, update on public.sync_status to outbox_owner;

do $$
declare
  host_table regclass;
  host_function regprocedure;
begin
  -- With row level security on these tables, now or later, the family works for every user.
  foreach host_table in array array[
    'public.gmb_accounts', 'public.oauth_tokens', 'public.gmb_locations', 'public.gmb_reviews', 'public.error_logs',
    'public.sync_status'
  ]::regclass[] loop
    if not exists (
      select from pg_policy p where p.polrelid = host_table and p.polname = 'outbox_owner_syncs_for_users'
    ) then
      execute format(
        'create policy outbox_owner_syncs_for_users on %s for all to outbox_owner using (true) with check (true)',
        host_table
      );
    end if;
  end loop;

  foreach host_function in array array[
    to_regprocedure('public.update_sync_status_success(uuid, text, timestamptz)'),
    to_regprocedure('public.update_sync_status_failure(uuid, text, timestamptz)')
  ] loop
    if host_function is not null then
      execute format('grant execute on function %s to outbox_owner', host_function);
    end if;
  end loop;
end $$;

set local role outbox_owner;

-- One row per account. google_name is Google's name of it, e.g. accounts/1; null until it is known.
create or replace view gmb.account_source as
select
  a.id, a.user_id, a.account_name, a.account_id as google_name, a.is_active,
  coalesce(t.status = 'reconnect_needed', false) as needs_reconnection
from public.gmb_accounts a
left join public.oauth_tokens t on t.account_id = a.id;

-- What an account's user has granted. Only the worker reads this.
create or replace view gmb.account_tokens as
select t.account_id, t.refresh_token, t.access_token, t.expires_at
from public.oauth_tokens t;

-- Keeps a new access token. One that Google gave says that the grant works (again). Google may exchange the refresh token
-- with it; null: it did not.
create or replace function gmb.record_access_token(
  account_id uuid,
  access_token text,
  expires_at timestamptz,
  refresh_token text default null
) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update public.oauth_tokens t
  set access_token = record_access_token.access_token,
      expires_at = record_access_token.expires_at,
      refresh_token = coalesce(record_access_token.refresh_token, t.refresh_token),
      status = 'active', last_error = null, updated_at = now()
  where t.account_id = record_access_token.account_id;
end;

-- Google does not accept this grant any more: its user has to connect the account again. One that was granted meanwhile is
-- another, and is left alone.
create or replace function gmb.require_reconnection(account_id uuid, refresh_token text, reason text) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update public.oauth_tokens t
  set status = 'reconnect_needed', last_error = require_reconnection.reason, access_token = null, expires_at = null,
      updated_at = now()
  where t.account_id = require_reconnection.account_id
    and t.refresh_token is not distinct from require_reconnection.refresh_token;
end;

-- Keeps Google's name of an account that had none.
create or replace function gmb.record_google_name(account_id uuid, google_name text) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update public.gmb_accounts a
  set account_id = record_google_name.google_name, updated_at = now()
  where a.id = record_google_name.account_id and a.account_id is null;
end;

-- Writes a page of locations, a JSON array of Google's own objects, as far as they have changed since: by the hash of what
-- Google says. One that the host has lost or that was marked deleted is written again. Returns how many were written.
create or replace function gmb.record_locations(account_id uuid, locations jsonb) returns int
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with listed as (
    select distinct on (l.data ->> 'name')
      l.data ->> 'name' as name, l.data, encode(sha256(convert_to(l.data::text, 'UTF8')), 'hex') as hash
    from jsonb_array_elements(record_locations.locations) as l (data)
    order by l.data ->> 'name'
  ),
  changed as (
    select l.name, l.data, l.hash
    from listed l
    left join gmb.location_marks m on m.account_id = record_locations.account_id and m.name = l.name
    left join public.gmb_locations h on h.account_id = record_locations.account_id and h.location_id = l.name
    where m.hash is distinct from l.hash or h.id is null or h.deleted_at is not null
  ),
  marked as (
    insert into gmb.location_marks as m (account_id, name, hash)
    select record_locations.account_id, c.name, c.hash
    from changed c
    order by c.name
    on conflict (account_id, name) do update set hash = excluded.hash
  ),
  written as (
    insert into public.gmb_locations as h (
      account_id, location_id, title, store_code, phone, website, place_id, metadata
    )
    select
      record_locations.account_id, c.name, c.data ->> 'title', c.data ->> 'storeCode',
      c.data #>> '{phoneNumbers,primaryPhone}', c.data ->> 'websiteUri', c.data #>> '{metadata,placeId}', c.data
    from changed c
    order by c.name
    on conflict (account_id, location_id) do update
    set title = excluded.title, store_code = excluded.store_code, phone = excluded.phone, website = excluded.website,
        place_id = excluded.place_id, metadata = excluded.metadata, deleted_at = null, updated_at = now()
    returning 1
  )
  select count(*)::int from written;
end;

-- Ends a complete listing of an account's locations: what is not named in it is marked deleted. A run that lost its lease may
-- still come with an older listing, which then changes nothing. Returns how many were marked.
create or replace function gmb.end_locations(account_id uuid, names text[], listed_at timestamptz) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  deleted int;
begin
  insert into gmb.account_marks as m (account_id, listed_at)
  values (end_locations.account_id, end_locations.listed_at)
  on conflict on constraint account_marks_pkey do update
  set listed_at = excluded.listed_at
  where m.listed_at is null or m.listed_at < excluded.listed_at;
  if not found then
    return 0;
  end if;

  with gone as (
    update public.gmb_locations h
    set deleted_at = now(), updated_at = now()
    where h.account_id = end_locations.account_id
      and h.deleted_at is null
      and not exists (select from unnest(end_locations.names) as n (name) where n.name = h.location_id)
    returning 1
  )
  select count(*) into deleted from gone;
  return deleted;
end $$;

-- Writes a page of reviews of one location as far as they are new or have changed, and returns how many. An older state of a
-- review never replaces a newer one. Of a location that the host has deleted meanwhile nothing is written.
create or replace function gmb.record_reviews(account_id uuid, location_name text, reviews jsonb) returns int
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with listed as (
    select distinct on (r.name) r.*
    from jsonb_to_recordset(record_reviews.reviews) as r (
      name text, reviewer text, rating int, comment text, reply text, replied_at timestamptz, created_at timestamptz,
      updated_at timestamptz, data jsonb
    )
    order by r.name, r.updated_at desc
  ),
  written as (
    insert into public.gmb_reviews as h (
      account_id, location_id, review_id, reviewer_name, rating, comment, reply, replied_at, reviewed_at, changed_at,
      metadata
    )
    select
      record_reviews.account_id, o.id, l.name, l.reviewer, l.rating, l.comment, l.reply, l.replied_at, l.created_at,
      l.updated_at, l.data
    from listed l
    join public.gmb_locations o
      on o.account_id = record_reviews.account_id and o.location_id = record_reviews.location_name
    order by l.name
    on conflict (account_id, review_id) do update
    set location_id = excluded.location_id, reviewer_name = excluded.reviewer_name, rating = excluded.rating,
        comment = excluded.comment, reply = excluded.reply, replied_at = excluded.replied_at,
        reviewed_at = excluded.reviewed_at, changed_at = excluded.changed_at, metadata = excluded.metadata,
        deleted_at = null, updated_at = now()
    where h.changed_at <= excluded.changed_at and (h.metadata <> excluded.metadata or h.deleted_at is not null)
    returning 1
  )
  select count(*)::int from written;
end;

-- Marks as deleted which reviews of a location a complete listing does not name, and takes back what was marked and is
-- named. Returns how many were marked.
create or replace function gmb.delete_other_reviews(account_id uuid, location_name text, names text[]) returns int
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with compared as (
    select h.id, n.name is null as gone
    from public.gmb_reviews h
    join public.gmb_locations o on o.id = h.location_id
    left join (select distinct u.name from unnest(delete_other_reviews.names) as u (name)) n on n.name = h.review_id
    where o.account_id = delete_other_reviews.account_id
      and o.location_id = delete_other_reviews.location_name
      and (n.name is null) <> (h.deleted_at is not null)
  ),
  changed as (
    update public.gmb_reviews h
    set deleted_at = case when c.gone then now() end, updated_at = now()
    from compared c
    where h.id = c.id
    returning c.gone
  )
  select count(*) filter (where c.gone)::int from changed c;
end;

-- Tells the host what became of a sync, by the functions it had for that. A host that has none is told nothing.
create or replace function gmb.tell_success(account_id uuid, sync_type text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('public.update_sync_status_success(uuid, text, timestamptz)') is not null then
    perform public.update_sync_status_success(tell_success.account_id, tell_success.sync_type, clock_timestamp());
  end if;
end $$;

create or replace function gmb.tell_failure(account_id uuid, error text, failed_at timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('public.update_sync_status_failure(uuid, text, timestamptz)') is not null then
    perform public.update_sync_status_failure(tell_failure.account_id, tell_failure.error, tell_failure.failed_at);
  end if;
end $$;

-- Writes an error where the host's people look for errors.
create or replace function gmb.log_error(account_id uuid, code text, message text, context jsonb) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  insert into public.error_logs (user_id, source, code, message, context)
  select
    a.user_id, 'gmb_sync', log_error.code, log_error.message,
    jsonb_build_object('account_id', log_error.account_id) || log_error.context
  from gmb.account_source a
  where a.id = log_error.account_id;
end;

reset role;

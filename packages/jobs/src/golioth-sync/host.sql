-- What this family knows about the host application's tables, besides the schedules (trigger.sql). A host with other tables
-- adapts these views and functions; no handler names a host table. The first part runs as the login role, the second as
-- outbox_owner.

grant usage on schema public to outbox_owner;
grant select on public.integrations, public.auto_sync_schedules to outbox_owner;
grant select, insert, update on public.devices to outbox_owner;
grant update (status, last_error, last_error_at, last_synced_at) on public.integrations to outbox_owner;
grant update (last_run_at, next_run_at) on public.auto_sync_schedules to outbox_owner;

do $$
declare
  host_table regclass;
begin
  -- With row level security on these tables, now or later, the family works for every user.
  foreach host_table in array array['public.integrations', 'public.devices', 'public.auto_sync_schedules']::regclass[] loop
    if not exists (
      select from pg_policy p where p.polrelid = host_table and p.polname = 'outbox_owner_works_for_users'
    ) then
      execute format(
        'create policy outbox_owner_works_for_users on %s for all to outbox_owner using (true) with check (true)',
        host_table
      );
    end if;
  end loop;
end $$;

set local role outbox_owner;

create or replace view golioth.schedules as
select
  s.id, s.integration_id, s.frequency_minutes, s.time_window_start, s.time_window_end, s.timezone, s.enabled, s.last_run_at,
  s.next_run_at, s.created_at
from public.auto_sync_schedules s;

-- Where the devices of an integration are read. A host that keeps its keys elsewhere (Vault) looks them up here; only the
-- worker reads this view.
create or replace view golioth.sources as
select i.id as integration_id, nullif(trim(i.project_id), '') as project_id, nullif(trim(i.api_key), '') as api_key
from public.integrations i
where i.provider = 'golioth';

create or replace function golioth.is_source(integration_id uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (select from golioth.sources s where s.integration_id = is_source.integration_id);

-- Whose an integration is; null when it is gone.
create or replace function golioth.owner_of(integration_id uuid) returns uuid
language sql stable set search_path = pg_catalog, pg_temp
return (select i.user_id from public.integrations i where i.id = owner_of.integration_id);

-- Writes one page of devices, as they are at Golioth, and returns how many. `seen_at` is the start of the sync: what a later
-- one has written stays. Safe to repeat.
create or replace function golioth.record_devices(integration_id uuid, seen_at timestamptz, devices jsonb) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with recorded as (
    insert into public.devices as d (
      integration_id, external_id, name, hardware_ids, tag_ids, blueprint_id, cohort_id, enabled, last_report_at,
      last_seen_online_at, provider_created_at, provider_updated_at, synced_at
    )
    select distinct on (p.id)
      i.id, p.id, p.name, coalesce(p."hardwareIds", '{}'), coalesce(p."tagIds", '{}'), p."blueprintId", p."cohortId",
      coalesce(p.enabled, true), p."lastReportAt", p."lastSeenOnlineAt", p."createdAt", p."updatedAt",
      record_devices.seen_at
    from jsonb_to_recordset(record_devices.devices) as p (
      id text, name text, "hardwareIds" text[], "tagIds" text[], "blueprintId" text, "cohortId" text, enabled boolean,
      "lastReportAt" timestamptz, "lastSeenOnlineAt" timestamptz, "createdAt" timestamptz, "updatedAt" timestamptz
    )
    join public.integrations i on i.id = record_devices.integration_id -- it may have been deleted meanwhile
    order by p.id
    on conflict (integration_id, external_id) do update
    set name = excluded.name, hardware_ids = excluded.hardware_ids, tag_ids = excluded.tag_ids,
        blueprint_id = excluded.blueprint_id, cohort_id = excluded.cohort_id, enabled = excluded.enabled,
        last_report_at = excluded.last_report_at, last_seen_online_at = excluded.last_seen_online_at,
        provider_created_at = excluded.provider_created_at, provider_updated_at = excluded.provider_updated_at,
        synced_at = excluded.synced_at, missing_since = null, updated_at = now()
    where d.synced_at <= excluded.synced_at
    returning 1
  )
  select count(*) from recorded;
end;

-- Ends a sync that has read everything it could: the integration is well. After a complete one, what it did not see is
-- marked missing (and kept: a device that comes back is the same row). Returns how many are missing since now.
create or replace function golioth.record_sync(integration_id uuid, seen_at timestamptz, complete boolean) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update public.integrations i
  set status = case when i.status = 'error' then 'active' else i.status end, last_error = null, last_error_at = null,
      last_synced_at = record_sync.seen_at
  where i.id = record_sync.integration_id
    and (i.last_synced_at is null or i.last_synced_at <= record_sync.seen_at);

  with missing as (
    update public.devices d
    set missing_since = record_sync.seen_at, updated_at = now()
    where d.integration_id = record_sync.integration_id
      and record_sync.complete
      and d.synced_at < record_sync.seen_at
      and d.missing_since is null
    returning 1
  )
  select count(*) from missing;
end;

-- Shows the user of an integration what only they can mend: a key that was refused, a project that is gone. Not if a sync
-- that began later went well meanwhile.
create or replace function golioth.record_failure(integration_id uuid, started_at timestamptz, message text) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update public.integrations i
  set status = 'error', last_error = record_failure.message, last_error_at = now()
  where i.id = record_failure.integration_id
    and (i.last_synced_at is null or i.last_synced_at < record_failure.started_at);
end;

revoke execute on all functions in schema golioth from public;
grant usage on schema golioth to outbox_worker;
grant select on golioth.sources to outbox_worker;
grant execute on function
  golioth.record_devices(uuid, timestamptz, jsonb), golioth.record_sync(uuid, timestamptz, boolean),
  golioth.record_failure(uuid, timestamptz, text)
  to outbox_worker;

reset role;

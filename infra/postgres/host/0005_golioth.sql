-- Stand-in for the host application that syncs devices from Golioth (development and tests only).
-- auto_sync_schedules has the columns of the real application; what the others hold is its own business.

create table public.integrations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  provider text not null default 'golioth',
  name text not null default '',
  project_id text,
  api_key text,
  status text not null default 'active',
  last_error text,
  last_error_at timestamptz,
  last_synced_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index idx_integrations_user_id on public.integrations (user_id);

create table public.devices (
  id uuid primary key default gen_random_uuid(),
  integration_id uuid not null references public.integrations (id) on delete cascade,
  external_id text not null,
  name text,
  hardware_ids text[] not null default '{}',
  tag_ids text[] not null default '{}',
  blueprint_id text,
  cohort_id text,
  enabled boolean not null default true,
  last_report_at timestamptz,
  last_seen_online_at timestamptz,
  provider_created_at timestamptz,
  provider_updated_at timestamptz,
  -- Start of the newest sync that saw it; missing_since: the first complete one that did not.
  synced_at timestamptz not null,
  missing_since timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (integration_id, external_id)
);

create table public.auto_sync_schedules (
  id uuid primary key default gen_random_uuid(),
  integration_id uuid not null references public.integrations (id) on delete cascade,
  frequency_minutes int not null default 60,
  time_window_start time,
  time_window_end time,
  enabled boolean not null default true,
  last_run_at timestamptz,
  next_run_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index idx_auto_sync_schedules_integration_id on public.auto_sync_schedules (integration_id);
create index idx_auto_sync_schedules_next_run_at on public.auto_sync_schedules (next_run_at) where enabled;

-- What the application did by itself: so many minutes from now, moved to the next opening of the window (in UTC).
create function public.calculate_next_run_at() returns trigger
language plpgsql
as $$
declare
  candidate timestamp := (now() at time zone 'UTC') + new.frequency_minutes * interval '1 minute';
begin
  if new.time_window_start is not null and new.time_window_end is not null then
    if candidate::time < new.time_window_start then
      candidate := candidate::date + new.time_window_start;
    elsif candidate::time >= new.time_window_end then
      candidate := candidate::date + 1 + new.time_window_start;
    end if;
  end if;
  new.next_run_at := candidate at time zone 'UTC';
  return new;
end $$;

create trigger set_next_run_at
before insert or update of frequency_minutes, time_window_start, time_window_end, enabled, last_run_at
on public.auto_sync_schedules
for each row when (new.enabled) execute function public.calculate_next_run_at();

alter table public.integrations enable row level security;
create policy "Users manage their own integrations" on public.integrations
  for all to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));
create policy "Service role full access" on public.integrations for all to service_role using (true) with check (true);

alter table public.devices enable row level security;
create policy "Users see their own devices" on public.devices
  for select to authenticated
  using (exists (select from public.integrations i where i.id = integration_id and i.user_id = (select auth.uid())));
create policy "Service role full access" on public.devices for all to service_role using (true) with check (true);

alter table public.auto_sync_schedules enable row level security;
create policy "Users manage their own schedules" on public.auto_sync_schedules
  for all to authenticated
  using (exists (select from public.integrations i where i.id = integration_id and i.user_id = (select auth.uid())))
  with check (exists (select from public.integrations i where i.id = integration_id and i.user_id = (select auth.uid())));
create policy "Service role full access" on public.auto_sync_schedules
  for all to service_role using (true) with check (true);

-- A user may set the API key, but nobody signed in reads one back.
grant select (
  id, user_id, provider, name, project_id, status, last_error, last_error_at, last_synced_at, created_at, updated_at
) on public.integrations to authenticated;
grant insert (id, user_id, provider, name, project_id, api_key), update (name, project_id, api_key), delete
  on public.integrations to authenticated;
grant select on public.devices to authenticated;
grant select, insert, update, delete on public.auto_sync_schedules to authenticated;
grant all on public.integrations, public.devices, public.auto_sync_schedules to service_role;

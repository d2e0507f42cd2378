-- Stand-in for the host application that owns auto syncs (development and tests only).
-- Names, columns, enums and indexes are the real application's; what it does with them is its own business.

create type public.auto_sync_status as enum ('running', 'paused', 'stopped', 'completed');
create type public.auto_sync_response_goal as enum ('everyone', 'critical_mass');

create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  full_name text,
  phone text,
  created_at timestamptz not null default now()
);

create table public.crews (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null references public.profiles (id) on delete cascade,
  name text not null,
  created_at timestamptz not null default now()
);

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null references public.profiles (id) on delete cascade,
  name text not null,
  phone text,
  created_at timestamptz not null default now()
);

create table public.crew_members (
  crew_id uuid not null references public.crews (id) on delete cascade,
  contact_id uuid not null references public.contacts (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (crew_id, contact_id)
);

create table public.auto_syncs (
  id uuid primary key default gen_random_uuid(),
  organizer_id uuid not null references public.profiles (id) on delete cascade,
  crew_id uuid not null references public.crews (id) on delete cascade,
  event_name text not null,
  status public.auto_sync_status not null default 'running',
  response_goal public.auto_sync_response_goal not null default 'everyone',
  timezone text not null default 'UTC',
  calendar_connected boolean not null default false,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  paused_at timestamptz,
  completed_at timestamptz,
  stopped_at timestamptz,
  last_reminder_sent_at timestamptz,
  metadata jsonb not null default '{}'
);
create index idx_auto_syncs_organizer_status on public.auto_syncs (organizer_id, status);
create index idx_auto_syncs_status on public.auto_syncs (status);
create index idx_auto_syncs_crew_id on public.auto_syncs (crew_id);

create table public.auto_sync_options (
  id uuid primary key default gen_random_uuid(),
  auto_sync_id uuid not null references public.auto_syncs (id) on delete cascade,
  label text not null,
  starts_at timestamptz,
  position int not null default 0,
  created_at timestamptz not null default now()
);
create index idx_auto_sync_options_auto_sync_id on public.auto_sync_options (auto_sync_id);

create table public.auto_sync_responses (
  id uuid primary key default gen_random_uuid(),
  auto_sync_id uuid not null references public.auto_syncs (id) on delete cascade,
  contact_id uuid not null references public.contacts (id) on delete cascade,
  option_id uuid references public.auto_sync_options (id) on delete set null,
  response text,
  created_at timestamptz not null default now()
);
create index idx_auto_sync_responses_auto_sync_id on public.auto_sync_responses (auto_sync_id, contact_id);

create table public.auto_sync_messages (
  id uuid primary key default gen_random_uuid(),
  auto_sync_id uuid not null references public.auto_syncs (id) on delete cascade,
  contact_id uuid references public.contacts (id) on delete set null,
  message_type text not null,
  body text not null,
  provider_sid text,
  sent_at timestamptz,
  created_at timestamptz not null default now()
);
create index idx_auto_sync_messages_auto_sync_id on public.auto_sync_messages (auto_sync_id);

alter table public.auto_syncs enable row level security;
create policy "Users manage their own auto syncs" on public.auto_syncs
  for all to authenticated
  using (organizer_id = (select auth.uid()))
  with check (organizer_id = (select auth.uid()));
create policy "Service role full access" on public.auto_syncs for all to service_role using (true) with check (true);

grant select, insert, update, delete on public.auto_syncs to authenticated;
grant all on all tables in schema public to service_role;

-- Stand-in for the host application that keeps Google Business Profiles (development and tests only).
-- What the family knows of these tables is in packages/jobs/src/gmb-sync/host.sql; a host with others adapts that file.

create table public.gmb_accounts (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  account_name text not null,
  -- Google's name of it, e.g. accounts/1; null until it is known.
  account_id text,
  email text,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index idx_gmb_accounts_user_id on public.gmb_accounts (user_id);

-- No policy: nobody but the service reads a token.
create table public.oauth_tokens (
  account_id uuid primary key references public.gmb_accounts (id) on delete cascade,
  refresh_token text,
  access_token text,
  expires_at timestamptz,
  status text not null default 'active'
    constraint token_status_is_known check (status in ('active', 'reconnect_needed')),
  last_error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table public.gmb_locations (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.gmb_accounts (id) on delete cascade,
  -- Google's name of it, e.g. locations/2.
  location_id text not null,
  title text,
  store_code text,
  phone text,
  website text,
  place_id text,
  metadata jsonb not null default '{}',
  deleted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint one_row_per_location unique (account_id, location_id)
);

create table public.gmb_reviews (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.gmb_accounts (id) on delete cascade,
  location_id uuid not null references public.gmb_locations (id) on delete cascade,
  -- Google's name of it, e.g. accounts/1/locations/2/reviews/3.
  review_id text not null,
  reviewer_name text,
  rating int constraint rating_is_stars check (rating between 1 and 5),
  comment text,
  reply text,
  replied_at timestamptz,
  reviewed_at timestamptz,
  changed_at timestamptz not null,
  metadata jsonb not null default '{}',
  deleted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint one_row_per_review unique (account_id, review_id)
);
create index idx_gmb_reviews_location_id on public.gmb_reviews (location_id);

create table public.sync_status (
  account_id uuid primary key references public.gmb_accounts (id) on delete cascade,
  status text not null constraint sync_status_is_known check (status in ('succeeded', 'failed')),
  last_sync_type text,
  last_synced_at timestamptz,
  last_failed_at timestamptz,
  last_error text,
  updated_at timestamptz not null default now()
);

create table public.error_logs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid,
  source text not null,
  code text,
  message text not null,
  context jsonb not null default '{}',
  created_at timestamptz not null default now()
);
create index idx_error_logs_created_at on public.error_logs (created_at);

-- The host's own functions, which a sync calls when it has ended.
create function public.update_sync_status_success(account_id uuid, sync_type text, completed_at timestamptz) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
  insert into public.sync_status as s (account_id, status, last_sync_type, last_synced_at, last_error)
  values ($1, 'succeeded', $2, $3, null)
  on conflict (account_id) do update
  set status = excluded.status, last_sync_type = excluded.last_sync_type, last_synced_at = excluded.last_synced_at,
      last_error = null, updated_at = now();
end;

create function public.update_sync_status_failure(account_id uuid, error text, completed_at timestamptz) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
  insert into public.sync_status as s (account_id, status, last_failed_at, last_error)
  values ($1, 'failed', $3, $2)
  on conflict (account_id) do update
  set status = excluded.status, last_failed_at = excluded.last_failed_at, last_error = excluded.last_error,
      updated_at = now();
end;

revoke execute on function
  public.update_sync_status_success(uuid, text, timestamptz), public.update_sync_status_failure(uuid, text, timestamptz)
  from public;
grant execute on function
  public.update_sync_status_success(uuid, text, timestamptz), public.update_sync_status_failure(uuid, text, timestamptz)
  to service_role;

do $$
declare
  owned record;
begin
  for owned in
    select *
    from (
      values
        ('gmb_accounts', 'user_id = (select auth.uid())'),
        ('gmb_locations', 'account_id in (select a.id from public.gmb_accounts a)'),
        ('gmb_reviews', 'account_id in (select a.id from public.gmb_accounts a)'),
        ('sync_status', 'account_id in (select a.id from public.gmb_accounts a)'),
        ('oauth_tokens', null),
        ('error_logs', null)
    ) as t (name, own)
  loop
    execute format('alter table public.%I enable row level security', owned.name);
    execute format('create policy "Service role full access" on public.%I for all to service_role using (true) with check (true)', owned.name);
    execute format('grant all on public.%I to service_role', owned.name);
    if owned.own is not null then
      execute format('create policy "Users read their own" on public.%I for select to authenticated using (%s)', owned.name, owned.own);
      execute format('grant select on public.%I to authenticated', owned.name);
    end if;
  end loop;
end $$;

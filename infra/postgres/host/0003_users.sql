-- Stand-in for the host application whose sign-ups are copied to Bubble (development and tests only).
-- What it does with its users is its own business; bubble_id and bubble_synced_at are written back by the sync.

create table public.users (
  id uuid primary key default gen_random_uuid(),
  email text not null unique,
  first_name text,
  last_name text,
  phone text,
  bubble_id text,
  bubble_synced_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create function public.touch_user() returns trigger
language plpgsql
as $$
begin
  new.updated_at := now();
  return new;
end $$;

create trigger users_are_touched before update on public.users for each row execute function public.touch_user();

alter table public.users enable row level security;
create policy "Users manage their own profile" on public.users
  for all to authenticated
  using (id = (select auth.uid()))
  with check (id = (select auth.uid()));
create policy "Service role full access" on public.users for all to service_role using (true) with check (true);

grant select, insert, update, delete on public.users to authenticated;
grant all on public.users to service_role;

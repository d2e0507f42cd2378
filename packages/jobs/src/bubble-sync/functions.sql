-- What monitoring and old schedules call. The names are those of the system this replaces.

set local role outbox_owner;

-- Creates in Bubble as the effect ledger knows them. Keys: bubble_user:<user>:first, or …:after:<the thing Bubble lost>.
create or replace view bubble.creates as
select
  outbox.uuid_or_null(split_part(e.key, ':', 2)) as user_id,
  e.key, e.state, e.reference as bubble_id, e.reason, e.started_at, e.settled_at, e.job_id
from outbox.effects e
where e.key like 'bubble\_user:%';

-- A sleeping bridge looks at once; one that is awake does so anyway (as outbox.wake_bridge).
create or replace function bubble.wake_bridge() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_try_advisory_xact_lock_shared(outbox.awake_lock()) then
    perform pg_notify('outbox_ready', '');
  end if;
end $$;

-- Was called every minute, and is harmless to call as often as one likes: users are copied without it. Returns how many
-- users wait that are due.
create or replace function bubble.invoke_bubble_sync_processor() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  due bigint := (
    select count(*)
    from outbox.jobs j
    where j.name = 'bubble_user_sync'
      and j.finished_at is null
      and j.state in ('pending', 'published')
      and j.attempt = 0
      and j.scheduled_at <= clock_timestamp()
  );
begin
  if due = 0 then
    raise notice 'No pending items to process';
  else
    raise notice 'Found % pending items', due;
    perform bubble.wake_bridge();
  end if;
  return due;
end $$;

-- The same for those that failed and whose next attempt is due. Attempts come by themselves.
create or replace function bubble.invoke_bubble_sync_retry() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  due bigint := (
    select count(*)
    from outbox.jobs j
    where j.name = 'bubble_user_sync'
      and j.finished_at is null
      and j.state in ('pending', 'published')
      and j.attempt > 0
      and j.scheduled_at <= clock_timestamp()
  );
begin
  if due = 0 then
    raise notice 'No failed items eligible for retry';
  else
    raise notice 'Found % failed items eligible for retry', due;
    perform bubble.wake_bridge();
  end if;
  return due;
end $$;

-- The daily health check. active_jobs: bridges and workers that gave a sign of life within the last minute.
create or replace function bubble.health_check(
  out active_jobs bigint,
  out pending_items bigint,
  out failed_items bigint,
  out completed_today bigint
)
language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
  select
    (
      select count(*)
      from outbox.services s
      where s.service in ('bridge', 'worker') and s.seen_at > clock_timestamp() - interval '1 minute'
    ),
    count(*) filter (where j.state in ('pending', 'published') and j.attempt = 0),
    count(*) filter (where j.state = 'failed' or (j.state in ('pending', 'published') and j.attempt > 0)),
    count(*) filter (where j.state in ('completed', 'skipped') and j.created_at >= now() - interval '24 hours')
  from outbox.jobs j
  where j.name = 'bubble_user_sync';
end;

reset role;

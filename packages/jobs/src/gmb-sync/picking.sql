-- Syncs that somebody outside runs: an edge function, a script. pick_sync_jobs gives them out under a lease, an update of
-- gmb.sync_queue ends them, and what nobody ends goes back to the workers when its lease is over.

set local role outbox_owner;

-- Leases up to `job_limit` syncs that are due to the caller, by priority and age, for ten minutes; each spends an attempt.
-- A new generation, so that a worker that is just taking the same job from BullMQ drops it. Rows that a worker or another
-- caller has in hand are passed over.
create or replace function gmb.pick_sync_jobs(job_limit int) returns setof gmb.sync_queue
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  picked bigint[];
begin
  if coalesce(job_limit, 0) not between 1 and 100 then
    raise exception 'job_limit must be from 1 to 100' using errcode = '22023', column = 'job_limit';
  end if;
  with due as (
    select j.id, j.queue, j.generation
    from outbox.jobs j
    join outbox.queues q on q.name = j.queue
    where j.name = 'gmb_sync'
      and j.state in ('pending', 'published')
      and j.scheduled_at <= clock_timestamp()
      and j.attempt < j.max_attempts
      and j.cancel_requested_at is null
      and q.paused_at is null
      and not exists (select from outbox.providers p where p.name = 'google' and p.paused_at is not null)
    order by j.priority desc, j.created_at, j.id
    limit pick_sync_jobs.job_limit
    for no key update of j skip locked
  ),
  leased as (
    update outbox.jobs j
    set state = 'active', run = outbox.new_run(), generation = j.generation + 1, attempt = j.attempt + 1,
        locked_by = 'rpc', locked_until = clock_timestamp() + interval '10 minutes', started_at = clock_timestamp(),
        published_at = coalesce(j.published_at, clock_timestamp()),
        published_epoch = (select q.epoch from outbox.queues q where q.name = j.queue)
    from due d
    where j.id = d.id
    returning j.id
  ),
  given_way as (
    insert into outbox.removals (queue, job_id, generation)
    select d.queue, d.id, d.generation from due d
  )
  select array_agg(l.id) into picked from leased l;

  return query
    select q.*
    from unnest(picked) as p (id)
    join gmb.sync_queue q on q.id = outbox.job_uuid(p.id)
    order by q.priority desc, q.created_at, q.id;
end $$;

-- The end of a locked sync that was picked. Only while the lease lasts: after it the row may be somebody else's.
create or replace function gmb.end_picked(job outbox.jobs, status text, error text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if job.locked_by <> 'rpc' then
    perform gmb.refuse(
      'This sync is run by a worker, which ends it.', 'Delete it to cancel it, or make it pending to hand it back.'
    );
  elsif job.locked_until < clock_timestamp() then
    perform gmb.refuse(
      'The lease of this sync is over: it will run again.', 'A sync that was picked has to be ended within ten minutes.'
    );
  elsif end_picked.status = 'succeeded' then
    perform gmb.end_job(job, 'completed', null, null);
  else
    perform gmb.end_job(job, 'failed', 'failed_by_update', coalesce(end_picked.error, job.last_error, 'failed'));
  end if;
end $$;

-- Fails syncs that have been running for so many minutes and whose lease is over: nobody has them in hand. Workers take what
-- a dead one left within seconds, so this finds something only while there is no worker, or of what was picked.
create or replace function gmb.mark_stale_sync_jobs(stale_threshold_minutes int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
  marked int := 0;
begin
  if coalesce(stale_threshold_minutes, -1) not between 0 and 100000 then
    raise exception 'stale_threshold_minutes must be from 0 to 100000'
      using errcode = '22023', column = 'stale_threshold_minutes';
  end if;
  for job in
    select j.*
    from outbox.jobs j
    where j.name = 'gmb_sync'
      and j.state = 'active'
      and j.locked_until < clock_timestamp()
      and j.started_at < clock_timestamp() - stale_threshold_minutes * interval '1 minute'
    order by j.id
    limit 1000
    for no key update skip locked
  loop
    perform gmb.end_job(
      job, 'failed', 'stale',
      format('Nobody has been working on it since %s.', to_char(job.locked_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC'))
    );
    marked := marked + 1;
  end loop;
  return marked;
end $$;

-- Gives back to the workers what was picked and not ended within its lease. The attempt is not spent: nobody knows of it.
create or replace function gmb.take_back_picked() returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  returned bigint;
begin
  select outbox.unpublish(ids => array_agg(j.id), generations => array_agg(j.generation)) into returned
  from outbox.jobs j
  where j.name = 'gmb_sync' and j.state = 'active' and j.locked_by = 'rpc' and j.locked_until < clock_timestamp();
  return coalesce(returned, 0);
end $$;

reset role;

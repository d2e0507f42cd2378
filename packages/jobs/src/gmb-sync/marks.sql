-- How far accounts and locations have been read, and what the end of a sync causes.

set local role outbox_owner;

-- Notes that a job has read the reviews of a location, as far as `reviews_until` (null: the watermark stays where it is;
-- it never goes back). With `names` the listing was complete, and other reviews are marked deleted, unless a listing that
-- began later has been there before. Returns how many were marked. Safe to repeat.
create or replace function gmb.end_reviews(
  account_id uuid,
  location_name text,
  job_id bigint,
  reviews_until timestamptz,
  listed_at timestamptz,
  names text[] default null
) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  known_listing timestamptz;
begin
  insert into gmb.location_marks as m (account_id, name, reviews_until, done_job, done_at)
  values (
    end_reviews.account_id, end_reviews.location_name, end_reviews.reviews_until, end_reviews.job_id, clock_timestamp()
  )
  on conflict on constraint location_marks_pkey do update
  set reviews_until = greatest(m.reviews_until, excluded.reviews_until), done_job = excluded.done_job,
      done_at = excluded.done_at, problem = null
  returning m.listed_at into known_listing;

  if end_reviews.names is null or known_listing >= end_reviews.listed_at then
    return 0;
  end if;
  update gmb.location_marks m
  set listed_at = end_reviews.listed_at
  where m.account_id = end_reviews.account_id and m.name = end_reviews.location_name;
  return gmb.delete_other_reviews(
    account_id => end_reviews.account_id, location_name => end_reviews.location_name, names => end_reviews.names
  );
end $$;

-- Notes why a job could not read the reviews of a location, and that it is done with it all the same: the watermark stays,
-- nothing is deleted. Written into the host's log once for each job.
create or replace function gmb.note_problem(account_id uuid, location_name text, job_id bigint, code text, message text)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into gmb.location_marks as m (account_id, name, done_job, done_at, problem)
  values (
    note_problem.account_id, note_problem.location_name, note_problem.job_id, clock_timestamp(), note_problem.code
  )
  on conflict on constraint location_marks_pkey do update
  set done_job = excluded.done_job, done_at = excluded.done_at, problem = excluded.problem
  where m.done_job is distinct from excluded.done_job or m.problem is distinct from excluded.problem;
  if found then
    perform gmb.log_error(
      account_id => note_problem.account_id, code => note_problem.code, message => note_problem.message,
      context => jsonb_build_object(
        'location', note_problem.location_name, 'job_id', outbox.job_uuid(note_problem.job_id)
      )
    );
  end if;
end $$;

-- The locations of an account: the watermark, and whether this job is through with it in its present life (a job that has
-- failed and is redriven begins anew), with what problem.
create or replace function gmb.location_progress(account_id uuid, job_id bigint)
returns table (name text, reviews_until timestamptz, is_done boolean, problem text)
language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
  select m.name, m.reviews_until, coalesce(d.is_done, false), case when d.is_done then m.problem end
  from gmb.location_marks m
  cross join lateral (
    select m.done_job = location_progress.job_id and m.done_at >= j.due_at as is_done
    from (select min(o.due_at) as due_at from outbox.jobs o where o.id = location_progress.job_id) j
  ) d
  where m.account_id = location_progress.account_id;
end;

-- A sync is over: the host is told, in the transaction that completes the job. With `is_full` a later incremental sync
-- has something to go on from.
create or replace function gmb.record_success(account_id uuid, sync_type text, is_full boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if record_success.is_full then
    insert into gmb.account_marks as m (account_id, full_synced_at)
    values (record_success.account_id, clock_timestamp())
    on conflict on constraint account_marks_pkey do update set full_synced_at = excluded.full_synced_at;
  end if;
  perform gmb.tell_success(account_id => record_success.account_id, sync_type => record_success.sync_type);
end $$;

-- Fires when a sync has failed for good, whoever ended it: its handler, the worker after a time-out or too many deaths, the
-- bridge, or a person. The host is told, and finds the error in its log, in the same transaction. Never fails the ending:
-- what could not be told is set aside, and the sweep tells it.
create or replace function gmb.follow_failure() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  perform gmb.record_failure(new);
  return null;
exception when others then
  perform outbox.record_capture_error(
    table_name => 'public.sync_status', job_name => new.name, key => new.key, sqlstate => sqlstate, message => sqlerrm
  );
  return null;
end $$;

create or replace function gmb.record_failure(job outbox.jobs) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  account gmb.account_source;
  message text := coalesce(job.last_error, job.reason, 'unknown');
begin
  select a.* into account from gmb.account_source a where a.id = outbox.uuid_or_null(job.payload ->> 'accountId');
  if not found then
    return; -- deleted since: there is nobody to tell
  end if;
  perform gmb.tell_failure(account_id => account.id, error => message, failed_at => job.finished_at);
  perform gmb.log_error(
    account_id => account.id, code => job.reason, message => message,
    context => jsonb_build_object(
      'job_id', outbox.job_uuid(job.id), 'sync_type', job.payload ->> 'syncType', 'attempts', job.attempt
    )
  );
end $$;

create or replace trigger follow_gmb_failure
after update on outbox.jobs
for each row when (new.name = 'gmb_sync' and new.state = 'failed' and old.state <> 'failed')
execute function gmb.follow_failure();

reset role;

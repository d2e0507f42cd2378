-- The queue as the application knew it. Words: published is pending, active is processing, completed is succeeded, and so
-- is skipped, with its reason in metadata; cancelled is not shown.

set local role outbox_owner;

create or replace view gmb.sync_queue with (security_invoker = true) as
select
  outbox.job_uuid(j.id) as id,
  j.owner_id as user_id,
  outbox.uuid_or_null(j.payload ->> 'accountId') as account_id,
  j.payload ->> 'syncType' as sync_type,
  case
    when j.state in ('pending', 'published') then 'pending'
    when j.state = 'active' then 'processing'
    when j.state in ('completed', 'skipped') then 'succeeded'
    else 'failed'
  end as status,
  j.priority,
  j.attempt as attempts,
  j.max_attempts,
  case when j.scheduled_at <> j.created_at then j.scheduled_at end as scheduled_at,
  coalesce(j.last_error, case when j.state = 'failed' then j.reason end) as last_error,
  case
    when j.state = 'skipped'
    then coalesce(j.payload -> 'metadata', '{}') || jsonb_build_object('reason', j.reason)
    else j.payload -> 'metadata'
  end as metadata,
  j.created_at,
  -- Of the current attempt, or of the last one once there is none to come.
  case when j.state not in ('pending', 'published') then j.started_at end as started_at,
  j.finished_at as completed_at
from outbox.jobs j
where j.name = 'gmb_sync' and j.state <> 'cancelled';

-- The row behind an id of the view, locked until the end of the transaction. Raises OB002 when there is none (any more).
create or replace function gmb.lock_job(id uuid) returns outbox.jobs
language sql security definer set search_path = pg_catalog, pg_temp
return outbox.lock_job(outbox.job_id(lock_job.id));

create or replace function gmb.refuse(message text, hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '%', refuse.message using errcode = '0A000', hint = refuse.hint;
end $$;

-- Fires instead of an insert into gmb.sync_queue, once per row, and asks for a sync. What is returned is the row as it
-- stands, which for an account that has an open sync is that one.
create or replace function gmb.insert_into_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  asked uuid;
begin
  if coalesce(new.status, 'pending') <> 'pending' or coalesce(new.attempts, 0) <> 0 then
    perform gmb.refuse(
      'A sync begins as pending, with no attempt made.', 'Leave status and attempts out, or give pending and 0.'
    );
  elsif coalesce(new.id::text, new.last_error, new.created_at::text, new.started_at::text, new.completed_at::text)
    is not null
  then
    perform gmb.refuse(
      'id, last_error, created_at, started_at and completed_at of a sync are not given by whoever asks for it.',
      'Leave them out; "returning" says what they are.'
    );
  end if;
  select e.id into asked
  from gmb.enqueue_sync(
    account_id => new.account_id, user_id => new.user_id, sync_type => new.sync_type, priority => new.priority,
    scheduled_at => new.scheduled_at, max_attempts => new.max_attempts, metadata => new.metadata
  ) e;
  select q.* into new from gmb.sync_queue q where q.id = asked;
  return new;
end $$;

-- Fires instead of an update of gmb.sync_queue, once per row:
--
--   processing → pending             handed back, whoever has it: its run counts for nothing any more. With attempts - 1
--                                    the attempt was not spent; with a later scheduled_at it waits until then
--   failed → pending                 all its attempts again, from now, or from a later scheduled_at on
--   processing → succeeded, failed   the end of a sync that pick_sync_jobs has given out, while its lease lasts
--
-- All else raises. A row that has moved on since the statement began is left as it is, and not counted.
create or replace function gmb.update_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
  due timestamptz := case when new.scheduled_at is distinct from old.scheduled_at then new.scheduled_at end;
  error text := case when new.last_error is distinct from old.last_error then new.last_error end;
begin
  if (new.id, new.user_id, new.account_id, new.sync_type, new.priority, new.max_attempts, new.metadata, new.created_at)
    is distinct from
    (old.id, old.user_id, old.account_id, old.sync_type, old.priority, old.max_attempts, old.metadata, old.created_at)
  then
    perform gmb.refuse(
      'Of a sync only status, attempts, scheduled_at and last_error can be updated.',
      'Insert another sync of the account: it raises the priority, advances the date, and makes incremental full.'
    );
  end if;

  job := gmb.lock_job(old.id);
  if (old.status || ' to ' || new.status) in ('processing to pending', 'processing to succeeded', 'processing to failed')
  then
    if job.state <> 'active' then
      return null;
    end if;
    if new.status = 'pending' then
      perform gmb.hand_back(job, new.attempts, due, error);
    else
      perform gmb.end_picked(job, new.status, error);
    end if;
  elsif old.status = 'failed' and new.status = 'pending' then
    if job.state <> 'failed' then
      return null;
    end if;
    perform outbox.redrive(id => job.id);
    if due > clock_timestamp() then
      perform outbox.reschedule(id => job.id, scheduled_at => due);
    end if;
  elsif new is distinct from old then
    perform gmb.refuse(
      format('An update cannot do that to a sync that is %s.', old.status),
      'It can make processing or failed pending; a delete cancels, an insert asks for a sync, and outbox.reschedule(id => outbox.job_id(...), scheduled_at => ...) gives a waiting one another instant.'
    );
  end if;

  select q.* into new from gmb.sync_queue q where q.id = old.id;
  return new;
end $$;

-- Takes a locked running sync from whoever has it. `attempts`: as many as have been spent then.
create or replace function gmb.hand_back(job outbox.jobs, attempts int, due timestamptz, error text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if attempts not between greatest(job.attempt - 1, 0) and job.attempt then
    perform gmb.refuse(
      format('A sync in its attempt %s has spent that attempt or not.', job.attempt),
      'Leave attempts as it is, or take 1 off.'
    );
  elsif job.cancel_requested_at is not null then
    perform gmb.end_job(job, 'cancelled', job.reason, null);
    return;
  end if;
  insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome, reason, error)
  values (
    job.id, job.run, job.attempt, job.locked_by, job.started_at,
    case when attempts < job.attempt then 'handed_back' else 'retried' end, 'handed_back_by_update', error
  )
  on conflict do nothing;
  update outbox.jobs j
  set state = 'published', locked_by = null, locked_until = null, last_error = coalesce(error, j.last_error)
  where j.id = job.id;
  perform outbox.begin_again(job, coalesce(due, clock_timestamp()), attempts, job.holds_key);
end $$;

-- Ends a locked open sync without a worker. What BullMQ has of it is taken out.
create or replace function gmb.end_job(job outbox.jobs, state text, reason text, error text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome, reason, error)
  select job.id, job.run, job.attempt, job.locked_by, job.started_at, end_job.state, end_job.reason, end_job.error
  where job.state = 'active'
  on conflict do nothing;
  update outbox.jobs j
  set state = end_job.state, reason = end_job.reason, last_error = coalesce(end_job.error, j.last_error),
      locked_by = null, locked_until = null, holds_key = false, admitted = false, finished_at = clock_timestamp()
  where j.id = job.id;
  insert into outbox.removals (queue, job_id, generation) values (job.queue, job.id, job.generation);
end $$;

-- Fires instead of a delete from gmb.sync_queue, once per row: an ended sync is gone from the history, an open one is
-- cancelled. One that a worker is running ends within a second and is seen until then.
create or replace function gmb.delete_from_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  job := gmb.lock_job(old.id);
  if job.state = 'active' and job.locked_by = 'rpc' then
    perform gmb.end_job(job, 'cancelled', 'deleted', null); -- nobody would hear of a request to stop
  elsif job.finished_at is null then
    perform outbox.cancel_jobs(ids => array[job.id], reason => 'deleted');
  else
    insert into outbox.removals (queue, job_id, generation) values (job.queue, job.id, job.generation);
    delete from outbox.attempts a where a.job_id = job.id;
    delete from outbox.idempotency_keys k where k.job_id = job.id;
    delete from outbox.jobs j where j.id = job.id;
  end if;
  return old;
end $$;

create or replace trigger enqueue instead of insert on gmb.sync_queue
for each row execute function gmb.insert_into_queue();
create or replace trigger act instead of update on gmb.sync_queue
for each row execute function gmb.update_queue();
create or replace trigger cancel_or_prune instead of delete on gmb.sync_queue
for each row execute function gmb.delete_from_queue();

reset role;

-- The queue as the application knew it, to read and to write: a view on outbox.jobs, whose writes go through its functions.
--
--   pending, published   pending; after a failed attempt: failed, with next_retry_at
--   active               processing
--   completed, skipped   completed; a skipped one says why in metadata.reason
--   failed               failed, with retry_count > max_retries: nobody retries it by itself
--   cancelled            not shown

set local role outbox_owner;

create or replace view bubble.sync_queue with (security_invoker = true) as
select
  outbox.job_uuid(j.id) as id,
  outbox.uuid_or_null(j.payload ->> 'userId') as user_id,
  case
    when j.state in ('pending', 'published') and j.attempt = 0 then 'pending'
    when j.state = 'active' then 'processing'
    when j.state in ('completed', 'skipped') then 'completed'
    else 'failed'
  end as status,
  j.priority,
  case
    when j.state in ('pending', 'published') then j.attempt
    when j.state = 'failed' then greatest(j.attempt, j.max_attempts)
    else greatest(j.attempt - 1, 0)
  end as retry_count,
  j.max_attempts - 1 as max_retries,
  case when j.state in ('pending', 'published') and j.attempt > 0 then j.scheduled_at end as next_retry_at,
  case when j.state <> 'completed' then coalesce(j.last_error, j.reason) end as error_message,
  case when j.state <> 'completed' then coalesce(j.last_error, j.reason) end as last_error,
  coalesce(j.payload -> 'metadata', '{}')
    || case when j.state = 'skipped' then jsonb_build_object('reason', j.reason) else '{}' end as metadata,
  j.scheduled_at,
  j.created_at,
  j.started_at,
  j.finished_at as processed_at,
  j.finished_at as completed_at
from outbox.jobs j
where j.name = 'bubble_user_sync' and j.state <> 'cancelled';

-- What sync_queue has of one job.
create or replace function bubble.sync_queue_row(job_id bigint) returns bubble.sync_queue
language sql stable security definer set search_path = pg_catalog, pg_temp
return (
  select q
  from bubble.sync_queue q
  where q.id = outbox.job_uuid(sync_queue_row.job_id)
);

create or replace function bubble.refuse(field text, problem text, hint text, sqlstate text default '22023') returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'sync_queue.%: %', refuse.field, refuse.problem
    using errcode = refuse.sqlstate, column = refuse.field, table = 'sync_queue', schema = 'bubble', hint = refuse.hint;
end $$;

-- Fires instead of an insert: the user's sync is enqueued. One that waits already is the answer; the new row's wishes then
-- count for nothing, as the one that waits will read the user's latest state anyway.
create or replace function bubble.insert_into_sync_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  field text;
  job_id bigint;
begin
  if new.user_id is null then
    perform bubble.refuse('user_id', 'is missing', 'Name the user to copy to Bubble.', '23502');
  elsif not exists (select from bubble.user_source u where u.user_id = new.user_id) then
    perform bubble.refuse('user_id', 'there is no user ' || new.user_id, 'bubble.user_source lists the users.', '23503');
  elsif coalesce(new.status, 'pending') <> 'pending' then
    perform bubble.refuse('status', 'a new row is pending', 'Leave status out.');
  elsif new.max_retries not between 0 and 899 then
    perform bubble.refuse('max_retries', 'must be from 0 to 899', 'Leave it out for the usual 3.');
  elsif jsonb_typeof(new.metadata) <> 'object' then
    perform bubble.refuse('metadata', 'must be a JSON object', 'Leave it out, or write e.g. {"source": "import"}.');
  elsif coalesce(new.retry_count, 0) <> 0 then
    perform bubble.refuse('retry_count', 'a new row has none', 'Leave retry_count out.');
  end if;
  foreach field in array array[
    'id', 'next_retry_at', 'error_message', 'last_error', 'created_at', 'started_at', 'processed_at', 'completed_at'
  ] loop
    if to_jsonb(new) ->> field is not null then
      perform bubble.refuse(field, 'cannot be chosen', 'Leave it out. To begin later, set scheduled_at.');
    end if;
  end loop;

  select e.id into job_id
  from outbox.enqueue(
    name => 'bubble_user_sync',
    key => new.user_id::text,
    payload => jsonb_strip_nulls(jsonb_build_object('userId', new.user_id, 'metadata', new.metadata)),
    owner_id => new.user_id,
    scheduled_at => new.scheduled_at,
    priority => new.priority,
    max_attempts => new.max_retries + 1,
    serial_key => 'bubble_user:' || new.user_id,
    rerun => true
  ) e;
  return bubble.sync_queue_row(job_id);
end $$;

-- The fields that an update changes, but for those that say nothing new when a row is made pending again.
create or replace function bubble.changed_fields(before jsonb, after jsonb) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
return array(
  select a.key
  from jsonb_each(changed_fields.after) a
  where a.value is distinct from changed_fields.before -> a.key
    and not (
      changed_fields.after ->> 'status' = 'pending'
      and (
        (a.key in ('error_message', 'last_error', 'started_at', 'processed_at', 'completed_at') and a.value = 'null')
        or (a.key = 'retry_count' and a.value = '0')
      )
    )
);

-- Fires instead of an update. Status "pending" hands a failed row back: it runs at once (or at next_retry_at), with
-- retry_count = 0 as if it had never failed. Another next_retry_at or scheduled_at reschedules a row that waits. Nothing
-- else can be written.
create or replace function bubble.update_sync_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  changed text[] := bubble.changed_fields(to_jsonb(old), to_jsonb(new));
  refused text := (
    select f from unnest(changed) f where f not in ('status', 'next_retry_at', 'scheduled_at') order by f limit 1
  );
  due timestamptz := case
    when 'next_retry_at' = any (changed) then new.next_retry_at
    when 'scheduled_at' = any (changed) then new.scheduled_at
  end;
  job outbox.jobs;
begin
  if refused is not null then
    perform bubble.refuse(
      refused, 'cannot be changed', 'Set status to pending to run the row again, or next_retry_at to run it at another time.'
    );
  elsif 'status' = any (changed) and new.status is distinct from 'pending' then
    perform bubble.refuse(
      'status', 'can only be set to pending', 'Delete the row to cancel it. How it ends is for the worker to say.'
    );
  elsif changed = '{}' then
    return new;
  end if;

  job := outbox.lock_job(outbox.job_id(old.id));
  if not 'status' = any (changed) then
    perform outbox.reschedule(id => job.id, scheduled_at => coalesce(due, clock_timestamp()));
  elsif not bubble.hand_back(job, coalesce(due, clock_timestamp()), from_start => new.retry_count = 0) then
    return null;
  end if;
  return bubble.sync_queue_row(job.id);
end $$;

-- Makes a locked row of sync_queue pending again. False, with a notice, when a newer row of the same user waits: that one
-- does all this one would.
create or replace function bubble.hand_back(job outbox.jobs, due timestamptz, from_start boolean) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  attempt int := case when from_start then 0 else job.attempt end;
begin
  if job.cancel_requested_at is not null and job.finished_at is null then
    perform bubble.refuse('status', 'the row is being cancelled', 'Insert a new row for the user.', 'OB003');
  elsif job.state in ('pending', 'published') then
    perform outbox.begin_again(job, due, attempt, job.holds_key);
    return true;
  elsif job.state = 'failed' then
    perform outbox.redrive(id => job.id);
  elsif job.state = 'active' and job.locked_until < clock_timestamp() then
    perform outbox.unpublish(ids => array[job.id], generations => array[job.generation], remove => true);
  elsif job.state = 'active' then
    perform bubble.refuse('status', 'the row is being processed', 'Wait for the end of this attempt.', 'OB003');
  else
    perform bubble.refuse('status', 'the row has ended', 'Insert a new row for the user.', 'OB004');
  end if;
  if due > clock_timestamp() then
    perform outbox.reschedule(id => job.id, scheduled_at => due);
  end if;
  return true;
exception when sqlstate 'OB005' then
  raise notice 'sync_queue: user % waits in a newer row; % is left as it is', job.key, outbox.job_uuid(job.id);
  return false;
end $$;

-- Fires instead of a delete: what waits or runs is cancelled, what has ended is removed with its attempts. Calls to Bubble
-- stay in the effect ledger.
create or replace function bubble.delete_from_sync_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs := outbox.lock_job(outbox.job_id(old.id));
begin
  if job.finished_at is null then
    perform outbox.cancel_jobs(ids => array[job.id], reason => 'deleted_from_sync_queue');
    return old;
  end if;
  delete from outbox.attempts a where a.job_id = job.id;
  delete from outbox.idempotency_keys k where k.job_id = job.id;
  delete from outbox.jobs j where j.id = job.id;
  insert into outbox.removals (queue, job_id, generation) values (job.queue, job.id, job.generation);
  return old;
end $$;

create or replace trigger insert_enqueues
instead of insert on bubble.sync_queue
for each row execute function bubble.insert_into_sync_queue();

create or replace trigger update_hands_back
instead of update on bubble.sync_queue
for each row execute function bubble.update_sync_queue();

create or replace trigger delete_cancels
instead of delete on bubble.sync_queue
for each row execute function bubble.delete_from_sync_queue();

reset role;

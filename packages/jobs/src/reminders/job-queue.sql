-- The queue as the application knew it, to read and to write: a view on outbox.jobs, whose writes go through its functions.

set local role outbox_owner;

-- Words: published is pending, completed is processed; cancelled is skipped with
-- its reason, failed is an honest fifth word.
create or replace view reminders.job_queue with (security_invoker = true) as
select
  outbox.job_uuid(j.id) as id,
  outbox.uuid_or_null(j.payload ->> 'autoSyncId') as sync_id,
  j.name as job_type,
  j.scheduled_at,
  case j.state
    when 'published' then 'pending'
    when 'active' then 'processing'
    when 'completed' then 'processed'
    when 'cancelled' then 'skipped'
    else j.state
  end as status,
  j.created_at,
  j.finished_at as processed_at,
  coalesce(j.reason, j.last_error) as error_message
from outbox.jobs j
where j.name in ('reminder_24h', 'pause_check_48h');

-- Fires instead of a delete from reminders.job_queue, once per row: an open job is cancelled, one that has ended is gone from
-- the history (its texts stay in the ledger). A reminder that the sweep would plan again without its row keeps it, and is
-- not counted.
create or replace function reminders.delete_from_job_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  select j.* into job from outbox.jobs j where j.id = outbox.job_id(old.id) for no key update;
  if not found then
    return null; -- pruned since the statement began
  elsif job.finished_at is null then
    perform outbox.cancel_jobs(ids => array[job.id], reason => 'deleted');
    return old;
  elsif job.name = 'reminder_24h' and exists (
    select from public.auto_syncs s
    where s.id = outbox.uuid_or_null(job.key)
      and s.status = 'running'
      and s.last_reminder_sent_at is null
      and s.created_at >= now() - reminders.jobs_are_known_for()
  ) then
    raise notice 'job_queue: % is left, or auto sync % would be reminded after all', old.id, job.key;
    return null;
  end if;
  insert into outbox.removals (queue, job_id, generation) values (job.queue, job.id, job.generation);
  delete from outbox.attempts a where a.job_id = job.id;
  delete from outbox.idempotency_keys k where k.job_id = job.id;
  delete from outbox.jobs j where j.id = job.id;
  return old;
end $$;

create or replace function reminders.refuse(field text, problem text, hint text, sqlstate text default '22023')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'job_queue.%: %', refuse.field, refuse.problem
    using errcode = refuse.sqlstate, column = refuse.field, table = 'job_queue', schema = 'reminders', hint = refuse.hint;
end $$;

-- What job_queue has of one job.
create or replace function reminders.job_queue_row(job_id bigint) returns reminders.job_queue
language sql stable security definer set search_path = pg_catalog, pg_temp
return (
  select q
  from reminders.job_queue q
  where q.id = outbox.job_uuid(job_queue_row.job_id)
);

-- Fires instead of an insert: the job is enqueued. One that waits already is the answer.
create or replace function reminders.insert_into_job_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  organizer uuid;
  field text;
  job_id bigint;
begin
  select s.organizer_id into organizer from public.auto_syncs s where s.id = new.sync_id;
  if new.sync_id is null then
    perform reminders.refuse('sync_id', 'is missing', 'Name the auto sync.', '23502');
  elsif not found then
    perform reminders.refuse('sync_id', 'there is no auto sync ' || new.sync_id, 'auto_syncs lists them.', '23503');
  elsif new.job_type is null or new.job_type not in ('reminder_24h', 'pause_check_48h') then
    perform reminders.refuse('job_type', 'must be reminder_24h or pause_check_48h', 'Name the kind of job.');
  elsif coalesce(new.status, 'pending') <> 'pending' then
    perform reminders.refuse('status', 'a new row is pending', 'Leave status out.');
  end if;
  foreach field in array array['id', 'created_at', 'processed_at', 'error_message'] loop
    if to_jsonb(new) ->> field is not null then
      perform reminders.refuse(field, 'cannot be chosen', 'Leave it out. To begin later, set scheduled_at.');
    end if;
  end loop;

  select e.id into job_id
  from outbox.enqueue(
    name => new.job_type, key => new.sync_id::text, payload => jsonb_build_object('autoSyncId', new.sync_id),
    owner_id => organizer, scheduled_at => new.scheduled_at
  ) e;
  return reminders.job_queue_row(job_id);
end $$;

-- Fires instead of an update. Status "pending" hands back a row that failed, or whose worker has died; another scheduled_at
-- moves a row that waits. Nothing else can be written.
create or replace function reminders.update_job_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  changed text[] := array(
    select a.key from jsonb_each(to_jsonb(new)) a where a.value is distinct from to_jsonb(old) -> a.key order by a.key
  );
  is_handed_back boolean := 'status' = any (changed);
  refused text := (
    select f
    from unnest(changed) f
    where f not in ('status', 'scheduled_at')
      -- Of a row that is pending again there is nothing to tell.
      and not (is_handed_back and f in ('processed_at', 'error_message') and to_jsonb(new) ->> f is null)
    limit 1
  );
  job outbox.jobs;
begin
  if refused is not null then
    perform reminders.refuse(
      refused, 'cannot be changed', 'Set status to pending to run the row again, or scheduled_at to run it at another time.'
    );
  elsif is_handed_back and new.status is distinct from 'pending' then
    perform reminders.refuse(
      'status', 'can only be set to pending', 'Delete the row to cancel it. How it ends is for the worker to say.'
    );
  elsif new.scheduled_at is null then
    perform reminders.refuse('scheduled_at', 'is missing', 'Say when, e.g. now().', '23502');
  elsif changed = '{}' then
    return new;
  end if;

  job := outbox.lock_job(outbox.job_id(old.id));
  if is_handed_back and job.state = 'active' and job.locked_until >= clock_timestamp() then
    perform reminders.refuse('status', 'the row is being processed', 'Wait for the end of this attempt.', 'OB003');
  elsif is_handed_back and job.state = 'active' then
    perform outbox.unpublish(ids => array[job.id], generations => array[job.generation], remove => true);
  elsif is_handed_back then
    perform outbox.redrive(id => job.id);
  end if;
  if 'scheduled_at' = any (changed) then
    perform outbox.reschedule(id => job.id, scheduled_at => new.scheduled_at);
  end if;
  return reminders.job_queue_row(job.id);
end $$;

create or replace trigger insert_enqueues instead of insert on reminders.job_queue
for each row execute function reminders.insert_into_job_queue();

create or replace trigger update_hands_back instead of update on reminders.job_queue
for each row execute function reminders.update_job_queue();

create or replace trigger cancel_or_prune instead of delete on reminders.job_queue
for each row execute function reminders.delete_from_job_queue();

revoke execute on function
  reminders.delete_from_job_queue(), reminders.insert_into_job_queue(), reminders.update_job_queue(),
  reminders.job_queue_row(bigint), reminders.refuse(text, text, text, text)
from public;

do $$
begin
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema reminders to service_role;
    grant select, insert, update, delete on reminders.job_queue to service_role;
  end if;
  if exists (select from pg_roles where rolname = 'authenticated') then
    grant usage on schema reminders to authenticated;
    grant select on reminders.job_queue to authenticated;
  end if;
end $$;

reset role;

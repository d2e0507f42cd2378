-- What a person does to one job. Each raises its generation, so that what BullMQ still has of the earlier life is dropped;
-- the bridge takes it out as well. All raise with a SQLSTATE of ours when the job's state does not allow it:
--   OB002 no such job · OB003 it is running · OB004 it has ended (or, for redrive: has not failed) · OB005 another job
--   holds its key (DETAIL: that job's id)

-- Gives an open job another instant, and returns its new generation. Its attempts stay counted.
create or replace function outbox.reschedule(id bigint, scheduled_at timestamptz) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  job := outbox.lock_job(reschedule.id);
  if job.finished_at is not null then
    raise exception 'Job % has ended (%).', job.id, job.state
      using errcode = 'OB004', hint = 'A failed job can be redriven; any other is enqueued anew.';
  elsif job.state = 'active' then
    raise exception 'Job % is running.', job.id
      using errcode = 'OB003', hint = 'Wait for the end of this attempt, or cancel the job.';
  elsif job.cancel_requested_at is not null then
    raise exception 'Job % is cancelled as soon as it is known what became of its call.', job.id using errcode = 'OB003';
  end if;
  return outbox.begin_again(job, reschedule.scheduled_at, job.attempt, job.holds_key);
end $$;

-- Makes an open job due at once.
create or replace function outbox.run_now(id bigint) returns int
language sql security definer set search_path = pg_catalog, pg_temp
return outbox.reschedule(id => run_now.id, scheduled_at => clock_timestamp());

-- Gives a failed job all its attempts again, from now on. It holds its key again, as when it was enqueued.
create or replace function outbox.redrive(id bigint) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
  other bigint;
  holds_key boolean;
begin
  job := outbox.lock_job(redrive.id);
  if job.state <> 'failed' then
    raise exception 'Job % has not failed: it is %.', job.id, job.state
      using errcode = 'OB004', hint = 'Only failed jobs can be redriven.';
  end if;
  select t.unique_mode <> 'none' and job.key is not null into holds_key
  from outbox.job_types t
  where t.name = job.name;
  loop
    begin
      return outbox.begin_again(job, clock_timestamp(), 0, coalesce(holds_key, false));
    exception when unique_violation then
      select j.id into other from outbox.jobs j where j.name = job.name and j.key = job.key and j.holds_key;
      if found then
        raise exception 'Job % does the same: its key "%" is taken.', other, job.key
          using errcode = 'OB005', detail = other::text, hint = 'Wait for that job, or cancel it.';
      end if;
      -- The other let go of the key between the two statements: it is free, try again.
    end;
  end loop;
end $$;

-- The row, locked until the end of the transaction.
create or replace function outbox.lock_job(id bigint) returns outbox.jobs
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  select j.* into job from outbox.jobs j where j.id = lock_job.id for no key update;
  if not found then
    raise exception 'There is no job %.', lock_job.id using errcode = 'OB002';
  end if;
  return job;
end $$;

-- The next life of a locked row that is not running.
create or replace function outbox.begin_again(job outbox.jobs, due timestamptz, attempt int, holds_key boolean) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update outbox.jobs j
  set state = 'pending', generation = job.generation + 1, scheduled_at = due, due_at = due,
      attempt = begin_again.attempt, holds_key = begin_again.holds_key, admitted = false, finished_at = null, reason = null,
      published_at = null, published_epoch = null, cancel_requested_at = null, rerun = false,
      interruptions = case when job.finished_at is null then job.interruptions else 0 end,
      publish_failures = 0
  where j.id = job.id;

  insert into outbox.ready (job_id, generation, priority, scheduled_at, far, serial_key)
  select job.id, job.generation + 1, job.priority, due, due > now() + m.publish_window, job.serial_key
  from outbox.meta m
  where m.only_row;

  insert into outbox.removals (queue, job_id, generation) values (job.queue, job.id, job.generation);
  return job.generation + 1;
end $$;

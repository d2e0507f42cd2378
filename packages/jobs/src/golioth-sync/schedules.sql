-- How a schedule becomes jobs. An enabled schedule has exactly one golioth_device_sync that waits, due at its next_run_at.
-- When that one begins to run, it plans the next (golioth.begin_run), in a transaction of its own and before it calls
-- anybody: however the run ends then (a crash, its last failed attempt, a cancel), the next is planned already. A run that
-- ends without ever having begun is noticed by the sweep.
--
-- Locks are taken in one order everywhere: the schedule, then its jobs.

set local role outbox_owner;

create or replace function golioth.slot_after(schedule golioth.schedules, after timestamptz) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return golioth.next_slot(
  after => after, created_at => (schedule).created_at, frequency_minutes => (schedule).frequency_minutes,
  window_start => (schedule).time_window_start, window_end => (schedule).time_window_end,
  timezone => (schedule).timezone
);

-- When the job of a slot is due: at the slot, or with golioth.settings.spread so many seconds after it, always as many for
-- the same schedule, and never as late as the next slot.
create or replace function golioth.start_of(schedule_id uuid, frequency_minutes int, slot timestamptz) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return start_of.slot + interval '1 second' * (
  select coalesce((hashtextextended(start_of.schedule_id::text, 0) & 9223372036854775807) % nullif(s.width, 0), 0)
  from (
    select least(floor(extract(epoch from spread))::bigint, start_of.frequency_minutes * 60::bigint) as width
    from golioth.settings
  ) s
);

-- Adds the job of a schedule, or of an integration alone (schedule_id null), or finds the one that waits.
create or replace function golioth.enqueue(
  schedule_id uuid,
  integration_id uuid,
  due timestamptz,
  out id bigint,
  out is_new boolean
)
language sql set search_path = pg_catalog, pg_temp
begin atomic
  select e.id, e.is_new
  from outbox.enqueue(
    name => 'golioth_device_sync', key => coalesce(enqueue.schedule_id, enqueue.integration_id)::text,
    payload => jsonb_strip_nulls(
      jsonb_build_object('scheduleId', enqueue.schedule_id, 'integrationId', enqueue.integration_id)
    ),
    owner_id => golioth.owner_of(enqueue.integration_id), scheduled_at => enqueue.due,
    serial_key => 'golioth:' || enqueue.integration_id
  ) e;
end;

-- The job with that key (a schedule, or an integration alone) that nobody has begun to run yet, locked.
create or replace function golioth.waiting_job(key uuid) returns outbox.jobs
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  select j.* into job
  from outbox.jobs j
  where j.name = 'golioth_device_sync' and j.key = waiting_job.key::text and j.holds_key
  for no key update;
  return job;
end $$;

-- Ends all that is open of a schedule; a run under way is aborted.
create or replace function golioth.cancel_jobs(schedule_id uuid, reason text default 'schedule_not_enabled') returns bigint
language sql set search_path = pg_catalog, pg_temp
return outbox.cancel_many(
  names => array['golioth_device_sync'], keys => array[cancel_jobs.schedule_id::text], reason => cancel_jobs.reason
);

-- Makes the jobs of a schedule what it says now. Safe to repeat: where all is well already, it changes nothing.
create or replace function golioth.follow(schedule_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  schedule golioth.schedules;
  waiting outbox.jobs;
  due timestamptz;
begin
  perform from public.auto_sync_schedules s where s.id = follow.schedule_id for no key update;
  select s.* into schedule from golioth.schedules s where s.id = follow.schedule_id;
  if schedule.enabled is not true then
    perform golioth.cancel_jobs(follow.schedule_id);
    return;
  end if;

  due := greatest(
    now(),
    golioth.start_of(
      schedule.id, schedule.frequency_minutes, coalesce(schedule.next_run_at, golioth.slot_after(schedule, now()))
    )
  );
  waiting := golioth.waiting_job(schedule.id);
  if waiting.payload ->> 'integrationId' <> schedule.integration_id::text then
    perform golioth.cancel_jobs(schedule.id, 'integration_changed');
  elsif waiting.id is not null then
    if greatest(waiting.scheduled_at, now()) <> due then
      perform outbox.reschedule(id => waiting.id, scheduled_at => due);
    end if;
    return;
  end if;
  perform golioth.enqueue(schedule.id, schedule.integration_id, due);
end $$;

-- The first thing a run does, at each of its attempts: notes its start in last_run_at (that of its first attempt), plans the
-- next run for the first slot after now, and says so in next_run_at. Slots come from the grid and not from this run, so
-- however late it is, the next one is on time again, and what was missed meanwhile is run once. Safe to repeat.
--
-- `refusal` says why there is nothing to do: the schedule is gone or not enabled, or (golioth.settings.missed_runs = 'none')
-- the run is so late that its next slot has passed as well, or the integration is gone. `started_at` is when this attempt
-- began. A run of an integration alone has nothing to plan.
create or replace function golioth.begin_run(
  job_id bigint,
  at timestamptz default now(),
  out refusal text,
  out integration_id uuid,
  out started_at timestamptz
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
  schedule golioth.schedules;
  next_run record;
  slot timestamptz;
  has_begun boolean;
begin
  select j.* into job from outbox.jobs j where j.id = begin_run.job_id and j.name = 'golioth_device_sync';
  started_at := begin_run.at;
  if job.payload ->> 'scheduleId' is null then
    integration_id := outbox.uuid_or_null(job.payload ->> 'integrationId');
    if not golioth.is_source(integration_id) then
      refusal := 'integration_not_found';
    end if;
    return;
  end if;

  perform from public.auto_sync_schedules s where s.id = outbox.uuid_or_null(job.key) for no key update;
  select s.* into schedule from golioth.schedules s where s.id = outbox.uuid_or_null(job.key);
  if schedule.enabled is not true then
    refusal := 'schedule_not_enabled';
    return;
  end if;

  slot := golioth.slot_after(schedule, begin_run.at);
  next_run := golioth.enqueue(
    schedule.id, schedule.integration_id, golioth.start_of(schedule.id, schedule.frequency_minutes, slot)
  );
  has_begun := coalesce(schedule.last_run_at between job.due_at and begin_run.at, false);
  if not has_begun and golioth.slot_after(schedule, job.due_at) <= begin_run.at then
    select 'missed' into refusal from golioth.settings s where s.missed_runs = 'none';
  end if;

  perform set_config('outbox.current_job', job.id::text, true);
  update public.auto_sync_schedules s
  set last_run_at = case when has_begun or refusal is not null then s.last_run_at else begin_run.at end,
      next_run_at = case when next_run.is_new then slot else s.next_run_at end
  where s.id = schedule.id and (next_run.is_new or not has_begun);

  integration_id := schedule.integration_id;
end $$;

-- Whether whoever calls may act for this user: the user themselves, or a role that sees all rows anyway (service_role).
create or replace function golioth.may_act_for(user_id uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return coalesce(may_act_for.user_id = outbox.request_user(), false) or (
  select r.rolbypassrls or r.rolsuper
  from pg_roles r
  where r.rolname = coalesce(nullif(current_setting('role'), 'none'), session_user)
);

-- Syncs at once, or right after the run that is under way, and returns the job's id. `id` is a schedule, whose slots stay
-- where they are, or an integration, which needs no schedule. For the user whose it is, and service_role.
create or replace function golioth.run_now(id uuid) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  schedule golioth.schedules;
  integration_id uuid;
  waiting outbox.jobs;
begin
  perform from public.auto_sync_schedules s where s.id = run_now.id for no key update;
  select s.* into schedule from golioth.schedules s where s.id = run_now.id;
  integration_id := coalesce(schedule.integration_id, run_now.id);
  if not golioth.is_source(integration_id) or not golioth.may_act_for(golioth.owner_of(integration_id)) then
    raise exception 'There is no schedule or Golioth integration %.', run_now.id using errcode = 'no_data_found';
  elsif not schedule.enabled then
    raise exception 'Schedule % is not enabled.', schedule.id
      using errcode = 'object_not_in_prerequisite_state', hint = 'Enable it, or run its integration now.';
  end if;

  waiting := golioth.waiting_job(run_now.id);
  if waiting.id is null then
    return (
      select outbox.job_uuid(e.id) from golioth.enqueue(schedule.id, integration_id, clock_timestamp()) e
    );
  elsif waiting.scheduled_at > clock_timestamp() then
    perform outbox.run_now(waiting.id);
  end if;
  return outbox.job_uuid(waiting.id);
end $$;

-- Takes over the schedules that were there before this family was, when the system that ran them has been switched off.
-- Each runs at the next_run_at that system left, or now if that is past, and then at its slots. Returns how many were taken
-- over; what is wrong with the others is in outbox.capture_errors.
create or replace function golioth.take_over() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  schedule record;
  taken bigint := 0;
begin
  update outbox.captures c
  set enabled_at = least(c.enabled_at, (select min(s.created_at) from golioth.schedules s))
  where c.name = 'golioth.schedules';
  for schedule in select s.id from golioth.schedules s where s.enabled order by s.id loop
    begin
      perform golioth.follow(schedule.id);
      taken := taken + 1;
    exception when others then
      perform outbox.record_capture_error(
        table_name => 'public.auto_sync_schedules', job_name => 'golioth_device_sync', key => schedule.id::text,
        sqlstate => sqlstate, message => sqlerrm
      );
    end;
  end loop;
  return taken;
end $$;

revoke execute on all functions in schema golioth from public;
grant execute on function golioth.begin_run(bigint, timestamptz) to outbox_worker;

do $$
begin
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema golioth to service_role;
    grant execute on function golioth.run_now(uuid) to service_role;
  end if;
  if exists (select from pg_roles where rolname = 'authenticated') then
    grant usage on schema golioth to authenticated;
    grant execute on function golioth.run_now(uuid) to authenticated;
  end if;
end $$;

reset role;

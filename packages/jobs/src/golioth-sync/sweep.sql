-- The sweep: what the triggers could not do at the time, or a run never came to do, is done about a minute later. Called by
-- the bridge.
--
--   recovered   what a capture set aside (outbox.capture_errors): the schedule is followed as it stands now
--   planned     an enabled schedule without an open job gets one, at its next_run_at or now if that is past: its last run
--               ended without having begun (BullMQ refused it, it was interrupted too often), or a trigger was disabled
--   cancelled   a job that waits although its schedule is gone or not enabled ends
--
-- It plans nothing for schedules older than the capture (golioth.take_over is for those), nor while a person has dropped or
-- disabled the trigger or the capture.
--
-- It never holds up a business write: it skips locked jobs, gives up on any other lock after 200 ms, and each call heals a
-- few rows of one kind and ends. One bad row is left for the next time and does not stop the rest; the newest come first, so
-- that rows which cannot be healed do not keep the others from it.

set local role outbox_owner;

-- Since when schedules are captured; null while they are not, by a person's decision.
create or replace function golioth.captured_since() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return (
  select c.enabled_at
  from outbox.captures c
  where c.name = 'golioth.schedules'
    and c.enabled
    and golioth.trigger_state(c.triggers ->> 'insert') in ('O', 'A')
);

create or replace function golioth.is_enabled(schedule_id uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (select from golioth.schedules s where s.id = is_enabled.schedule_id and s.enabled);

-- Whether a job is still to run: its schedule is enabled, or (of an integration alone) its integration is there.
create or replace function golioth.is_wanted(payload jsonb) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return case
  when is_wanted.payload ->> 'scheduleId' is null
  then golioth.is_source(outbox.uuid_or_null(is_wanted.payload ->> 'integrationId'))
  else golioth.is_enabled(outbox.uuid_or_null(is_wanted.payload ->> 'scheduleId'))
end;

-- Errors older than a day are left to a person.
create or replace function golioth.recover_captures(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  missed record;
begin
  healed := 0;
  failed := 0;
  for missed in
    select e.id, outbox.uuid_or_null(e.key) as schedule_id
    from outbox.capture_errors e
    where e.healed_at is null
      and e.captured_at > now() - interval '24 hours'
      and e.job_name = 'golioth_device_sync'
      and outbox.uuid_or_null(e.key) is not null
      and (golioth.captured_since() is not null or not golioth.is_enabled(outbox.uuid_or_null(e.key)))
    order by e.id desc
    limit batch
    for no key update skip locked
  loop
    begin
      perform golioth.follow(missed.schedule_id);
      update outbox.capture_errors e set healed_at = clock_timestamp() where e.id = missed.id;
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

create or replace function golioth.plan_missing(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  missing record;
begin
  healed := 0;
  failed := 0;
  for missing in
    select s.id
    from golioth.schedules s
    where s.enabled
      and s.created_at >= golioth.captured_since()
      and not exists (
        select from outbox.jobs j where j.key = s.id::text and j.name = 'golioth_device_sync' and j.finished_at is null
      )
    order by s.created_at desc, s.id
    limit batch
  loop
    begin
      perform golioth.follow(missing.id);
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- Cancels an open job that is not running, if it still is not wanted once it is locked: whoever enables its schedule has
-- either committed by then or waits for us in the trigger. False when it is wanted, or the job is locked.
create or replace function golioth.cancel_unless_wanted(job_id bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
begin
  select j.* into job
  from outbox.jobs j
  where j.id = cancel_unless_wanted.job_id and j.finished_at is null and j.state <> 'active'
  for no key update skip locked;
  if not found or golioth.is_wanted(job.payload) then
    return false;
  end if;
  perform outbox.cancel_jobs(ids => array[job.id], reason => 'schedule_not_enabled');
  return true;
end $$;

create or replace function golioth.cancel_needless(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  needless record;
begin
  healed := 0;
  failed := 0;
  for needless in
    select j.id
    from outbox.jobs j
    where j.finished_at is null
      and j.cancel_requested_at is null
      and j.state <> 'active'
      and j.name = 'golioth_device_sync'
      and not golioth.is_wanted(j.payload)
    order by j.id desc
    limit batch
  loop
    begin
      if golioth.cancel_unless_wanted(needless.id) then
        healed := healed + 1;
      end if;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

create or replace function golioth.sweep() returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
  batch constant int := 100;
  kind text;
  part record;
  answer jsonb := '{"recovered": 0, "planned": 0, "cancelled": 0, "failed": 0, "error": null, "more": false}';
begin
  -- Held until the end of the transaction. The number is arbitrary.
  if not pg_try_advisory_xact_lock(122524661739391) then
    return null;
  end if;
  foreach kind in array array['recovered', 'planned', 'cancelled'] loop
    case kind
      when 'recovered' then part := golioth.recover_captures(batch);
      when 'planned' then part := golioth.plan_missing(batch);
      when 'cancelled' then part := golioth.cancel_needless(batch);
    end case;
    answer := answer || jsonb_build_object(
      kind, part.healed, 'failed', (answer ->> 'failed')::int + part.failed,
      'error', coalesce(part.error, answer ->> 'error'), 'more', part.healed > 0
    );
    exit when part.healed > 0;
  end loop;
  return answer;
end $$;

revoke execute on all functions in schema golioth from public;
grant usage on schema golioth to outbox_bridge;
grant execute on function golioth.sweep() to outbox_bridge;

reset role;

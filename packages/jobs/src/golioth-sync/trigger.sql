-- The triggers on the host's schedules. One before each row refuses what cannot be meant and keeps next_run_at; a capture
-- keeps the jobs. They come into effect with the business write, in its transaction.

set local role outbox_owner;

-- Fires before a schedule is written. Refuses a frequency, a window or a zone that makes no sense, when it is written and
-- not later: a row that was there before may still be disabled. Writes next_run_at when the slots have changed or the
-- schedule has been enabled; null says that no run is planned. An instant that somebody else writes there moves that one
-- run and no slot.
-- A job names its integration, so that of another integration ends here, before the capture looks for one that waits.
create or replace function golioth.check_schedule() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  is_changed constant boolean := tg_op = 'INSERT' or (
    (new.frequency_minutes, new.time_window_start, new.time_window_end, new.timezone, new.created_at)
    is distinct from
    (old.frequency_minutes, old.time_window_start, old.time_window_end, old.timezone, old.created_at)
  );
  wrong_column text;
  message text;
begin
  if is_changed then
    if new.frequency_minutes is null or new.frequency_minutes < 1 then
      wrong_column := 'frequency_minutes';
      message := format('must be at least 1, not %s', coalesce(new.frequency_minutes::text, 'null'));
    elsif (new.time_window_start is null) <> (new.time_window_end is null) then
      wrong_column := case when new.time_window_start is null then 'time_window_start' else 'time_window_end' end;
      message := 'is missing: a window has a start and an end, or there is none';
    elsif not golioth.is_timezone(new.timezone) then
      wrong_column := 'timezone';
      message := format('must be UTC or an IANA name with its area, such as Europe/Berlin, not %s',
        coalesce(quote_literal(new.timezone), 'null'));
    end if;
    if message is not null then
      raise exception '% %.', wrong_column, message
        using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, column = wrong_column;
    end if;
  end if;

  if new.enabled is not true then
    new.next_run_at := null;
  elsif is_changed or not old.enabled or new.next_run_at is null then
    new.next_run_at := golioth.next_slot(
      after => now(), created_at => new.created_at, frequency_minutes => new.frequency_minutes,
      window_start => new.time_window_start, window_end => new.time_window_end, timezone => new.timezone
    );
  end if;

  if tg_op = 'UPDATE' and new.integration_id <> old.integration_id then
    perform golioth.leave_integration(new.id);
  end if;
  return new;
end $$;

-- Like a capture, it waits for no lock for long and fails nobody's write.
create or replace function golioth.leave_integration(schedule_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  perform golioth.cancel_jobs(leave_integration.schedule_id, 'integration_changed');
exception when others then
  perform outbox.record_capture_error(
    table_name => 'public.auto_sync_schedules', job_name => 'golioth_device_sync',
    key => leave_integration.schedule_id::text, sqlstate => sqlstate, message => sqlerrm
  );
end $$;

-- How a trigger of the host's table is enabled, as pg_trigger has it; null when there is none of that name.
create or replace function golioth.trigger_state(name text) returns "char"
language sql stable set search_path = pg_catalog, pg_temp
return (
  select t.tgenabled
  from pg_trigger t
  where t.tgrelid = 'public.auto_sync_schedules'::regclass and t.tgname = trigger_state.name
);

-- Gives the host its own next_run_at triggers back, as they were. Called when this family leaves, by the owner of the table.
create or replace function golioth.restore_host_triggers() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  host_trigger record;
  restored bigint := 0;
begin
  for host_trigger in delete from golioth.host_triggers returning name, was_enabled loop
    if golioth.trigger_state(host_trigger.name) is not null then
      execute format(
        'alter table public.auto_sync_schedules enable %s trigger %I',
        case host_trigger.was_enabled when 'A' then 'always' when 'R' then 'replica' else '' end, host_trigger.name
      );
      restored := restored + 1;
    end if;
  end loop;
  return restored;
end $$;

revoke execute on all functions in schema golioth from public;

reset role;

do $$
declare
  is_new boolean := not exists (select from outbox.captures where name = 'golioth.schedules');
  host_trigger record;
begin
  -- Two that compute next_run_at would contradict each other. Only when the family comes: what a person enables after that
  -- stays enabled.
  for host_trigger in
    select t.tgname as name, t.tgenabled as was_enabled
    from pg_trigger t
    join pg_proc p on p.oid = t.tgfoid
    where is_new
      and t.tgrelid = 'public.auto_sync_schedules'::regclass
      and not t.tgisinternal
      and t.tgenabled <> 'D'
      and p.pronamespace <> 'golioth'::regnamespace
      and p.prosrc ~* '\mnew\.next_run_at\s*:?='
  loop
    insert into golioth.host_triggers (name, was_enabled) values (host_trigger.name, host_trigger.was_enabled)
    on conflict (name) do update set was_enabled = excluded.was_enabled, disabled_at = now();
    execute format('alter table public.auto_sync_schedules disable trigger %I', host_trigger.name);
  end loop;

  -- A trigger that a person dropped or disabled is not ours to restore: it is created with the family, and replaced while it
  -- is there.
  if is_new or golioth.trigger_state('golioth_check_schedule') = 'O' then
    create or replace trigger golioth_check_schedule
    before insert or update on public.auto_sync_schedules
    for each row execute function golioth.check_schedule();
  end if;
end $$;

-- An enabled schedule has a job that waits for its next_run_at and moves with it; one that is disabled or deleted has none.
-- What a run of the schedule writes itself is no news (golioth.begin_run has planned the next one).
select outbox.capture(
  name => 'golioth.schedules',
  table_name => 'public.auto_sync_schedules',
  job_name => 'golioth_device_sync',
  key => 'row.id::text',
  columns => '{enabled,next_run_at,integration_id}',
  "when" => 'row.enabled',
  cancel_when => 'not row.enabled',
  payload => $$jsonb_build_object('scheduleId', row.id, 'integrationId', row.integration_id)$$,
  owner_id => 'golioth.owner_of(row.integration_id)',
  serial_key => $$'golioth:' || row.integration_id$$,
  scheduled_at => 'greatest(now(), golioth.start_of(row.id, row.frequency_minutes, row.next_run_at))',
  reschedule => true,
  reason => 'schedule_not_enabled'
);

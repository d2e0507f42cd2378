-- The triggers on the host's schedules. One before each row refuses what cannot be meant and keeps next_run_at; those after
-- each statement keep the jobs. They come into effect with the business write, in its transaction.

set local role outbox_owner;

-- Fires before a schedule is written. Refuses a frequency, a window or a zone that makes no sense, when it is written and
-- not later: a row that was there before may still be disabled. Writes next_run_at when the slots have changed or the
-- schedule has been enabled; null says that no run is planned. An instant that somebody else writes there moves that one
-- run and no slot.
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
  return new;
end $$;

-- Follows these schedules one by one. What goes wrong is set aside, and fails nobody's write.
create or replace function golioth.capture(schedule_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  schedule_id uuid;
begin
  foreach schedule_id in array schedule_ids loop
    begin
      perform golioth.follow(schedule_id);
    exception when others then
      perform outbox.record_capture_error(
        table_name => 'public.auto_sync_schedules', job_name => 'golioth_device_sync', key => schedule_id::text,
        sqlstate => sqlstate, message => sqlerrm
      );
    end;
  end loop;
end $$;

-- Fires after an insert of schedules, once per statement: each that is enabled gets the job of its first slot.
-- lock_timeout: a duplicate key would make the business write wait for another transaction without end.
create or replace function golioth.follow_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  perform golioth.capture(array(select i.id from inserted i where i.enabled order by i.id));
  return null;
end $$;

-- Fires after an update of schedules, once per statement, and looks at those of which anything changed that their jobs are
-- made from: the waiting job moves, is added, or ends. What a run of ours writes is no news.
create or replace function golioth.follow_update() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  if coalesce(current_setting('outbox.current_job', true), '') = '' then
    perform golioth.capture(
      array(
        select n.id
        from after_update n
        join before_update o on o.id = n.id
        where (n.enabled, n.next_run_at, n.integration_id) is distinct from (o.enabled, o.next_run_at, o.integration_id)
        order by n.id
      )
    );
  end if;
  return null;
end $$;

-- Fires after a delete of schedules, once per statement: what has not begun ends, and what is left belongs to nobody.
create or replace function golioth.follow_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  perform golioth.capture(array(select d.id from deleted d order by d.id));
  perform golioth.disown_jobs(array(select d.id from deleted d));
  return null;
exception when others then
  perform outbox.record_capture_error(
    table_name => 'public.auto_sync_schedules', job_name => 'golioth_device_sync', key => d.id::text,
    sqlstate => sqlstate, message => sqlerrm
  )
  from deleted d;
  return null;
end $$;

create or replace function golioth.disown_jobs(schedule_ids uuid[]) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
  update outbox.jobs j
  set owner_id = null
  where j.id in (
    select o.id
    from outbox.jobs o
    where o.key = any (disown_jobs.schedule_ids::text[]) and o.name = 'golioth_device_sync' and o.owner_id is not null
    order by o.id
    for no key update
  );
end;

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
  is_new boolean := not exists (
    select from outbox.captures where table_name = 'public.auto_sync_schedules' and job_name = 'golioth_device_sync'
  );
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

  -- A trigger that a person dropped or disabled is not ours to restore: each is created with the family, and replaced while
  -- it is there.
  if is_new or golioth.trigger_state('golioth_check_schedule') = 'O' then
    create or replace trigger golioth_check_schedule
    before insert or update on public.auto_sync_schedules
    for each row execute function golioth.check_schedule();
  end if;
  if is_new or golioth.trigger_state('golioth_schedule_inserted') = 'O' then
    create or replace trigger golioth_schedule_inserted
    after insert on public.auto_sync_schedules
    referencing new table as inserted
    for each statement execute function golioth.follow_insert();
  end if;
  if is_new or golioth.trigger_state('golioth_schedule_updated') = 'O' then
    create or replace trigger golioth_schedule_updated
    after update on public.auto_sync_schedules
    referencing old table as before_update new table as after_update
    for each statement execute function golioth.follow_update();
  end if;
  if is_new or golioth.trigger_state('golioth_schedule_deleted') = 'O' then
    create or replace trigger golioth_schedule_deleted
    after delete on public.auto_sync_schedules
    referencing old table as deleted
    for each statement execute function golioth.follow_delete();
  end if;
  insert into outbox.captures (table_name, job_name) values ('public.auto_sync_schedules', 'golioth_device_sync')
  on conflict do nothing;
end $$;

-- Rules that turn changes of a table into jobs: docs/capture.md. They run with the rights of outbox_owner, and so does what
-- their expressions say: only members of that role may declare one (90_access.sql), and they need the right to create
-- triggers on the table, or to own it when a trigger is to go.

-- Declares a rule, or replaces the one of that name. Says what it did: created, replaced or unchanged. Raises
-- invalid_parameter_value (22023) with the argument's name first.
-- A trigger that a person dropped or disabled stays so: only drop_capture and a new capture bring it back.
create or replace function outbox.capture(
  name text,
  table_name text,
  job_name text,
  key text default null,
  columns text[] default null,
  "when" text default 'true',
  cancel_when text default null,
  payload text default null,
  owner_id text default null,
  serial_key text default null,
  priority text default null,
  scheduled_at text default null,
  delay text default null,
  reschedule boolean default false,
  events text[] default '{insert,update,delete}',
  reason text default 'row_changed',
  insert_trigger text default null,
  insert_function text default null
) returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  wanted outbox.captures;
  existing outbox.captures;
begin
  lock table outbox.captures in share row exclusive mode; -- one at a time; readers go on
  wanted.name := capture.name;
  wanted.table_name := capture.table_name;
  wanted.job_name := capture.job_name;
  wanted.rule := jsonb_strip_nulls(
    jsonb_build_object(
      'key', capture.key, 'columns', to_jsonb(capture.columns), 'when', coalesce(capture."when", 'true'),
      'cancel_when', capture.cancel_when, 'payload', capture.payload, 'owner_id', capture.owner_id,
      'serial_key', capture.serial_key, 'priority', capture.priority, 'scheduled_at', capture.scheduled_at,
      'delay', capture.delay, 'reschedule', coalesce(capture.reschedule, false), 'events', to_jsonb(capture.events),
      'reason', coalesce(capture.reason, 'row_changed'), 'insert_trigger', capture.insert_trigger,
      'insert_function', capture.insert_function
    )
  );
  wanted := outbox.checked_capture(wanted);

  select c.* into existing
  from outbox.captures c
  where c.name = wanted.name
    or (c.name is null and c.table_name = wanted.table_name and c.job_name = wanted.job_name)
  order by c.name is null
  limit 1;
  if (existing.name, existing.table_name, existing.job_name, existing.rule)
    = (wanted.name, wanted.table_name, wanted.job_name, wanted.rule)
  then
    perform outbox.write_capture_functions(existing);
    return 'unchanged';
  end if;

  perform outbox.write_capture_functions(wanted);
  perform outbox.set_capture_triggers(existing, wanted);
  perform outbox.drop_capture_functions(existing, wanted);
  perform outbox.save_capture(existing, wanted);
  return case when existing.id is null then 'created' else 'replaced' end;
end $$;

-- Takes a rule away, with its triggers and functions. Jobs that are open stay open.
create or replace function outbox.drop_capture(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  existing outbox.captures;
  nothing outbox.captures;
begin
  lock table outbox.captures in share row exclusive mode;
  select c.* into existing from outbox.captures c where c.name = drop_capture.name;
  if not found then
    raise exception 'name: there is no capture "%"', drop_capture.name
      using errcode = 'invalid_parameter_value', hint = 'select name from outbox.captures lists them.';
  end if;
  perform outbox.set_capture_triggers(existing, nothing);
  perform outbox.drop_capture_functions(existing, nothing);
  delete from outbox.captures c where c.id = existing.id;
end $$;

create or replace function outbox.save_capture(existing outbox.captures, wanted outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  generated jsonb := (
    select coalesce(jsonb_object_agg(e.event, outbox.capture_trigger(wanted, e.event)), '{}')
    from jsonb_array_elements_text(wanted.rule -> 'events') as e (event)
  );
begin
  if existing.id is null then
    insert into outbox.captures (name, table_name, job_name, rule, triggers)
    values (wanted.name, wanted.table_name, wanted.job_name, wanted.rule, generated);
    return;
  end if;
  update outbox.captures c
  set name = wanted.name, table_name = wanted.table_name, job_name = wanted.job_name, rule = wanted.rule,
      -- Triggers that a family has written by hand for other events stay.
      triggers = coalesce(existing.triggers, '{}')
        - array(select jsonb_array_elements_text(existing.rule -> 'events'))
        || generated,
      enabled_at = case when c.table_name = wanted.table_name then c.enabled_at else now() end
  where c.id = existing.id;
end $$;

-- The name of the trigger that serves a rule's event.
create or replace function outbox.capture_trigger(capture outbox.captures, event text) returns text
language sql stable set search_path = pg_catalog, pg_temp
return coalesce(
  case when event = 'insert' then (capture).rule ->> 'insert_trigger' end,
  outbox.capture_object((capture).name, event)
);

-- Creates and drops triggers so that those of `wanted` are there instead of those of `existing`; either may be empty.
create or replace function outbox.set_capture_triggers(existing outbox.captures, wanted outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old_table regclass := to_regclass(existing.table_name);
  same_table boolean := existing.table_name is not distinct from wanted.table_name;
  event text;
  had boolean;
  wants boolean;
begin
  foreach event in array array['insert', 'update', 'delete'] loop
    wants := coalesce(wanted.rule -> 'events' ? event, false);
    had := coalesce(
      -- A capture without a name was written by hand; its insert trigger is taken over by the name it has.
      case
        when existing.name is null then existing.id is not null and event = 'insert' and wanted.rule ? 'insert_trigger'
        else existing.rule -> 'events' ? event
      end,
      false
    );
    if had and existing.name is not null and not (wants and same_table) and old_table is not null then
      execute format('drop trigger if exists %I on %s', existing.triggers ->> event, old_table);
    elsif had and wants and same_table then
      perform outbox.keep_capture_trigger(existing, wanted, event);
    end if;
    if wants and not (had and same_table) then
      perform outbox.create_capture_trigger(wanted, event);
    end if;
  end loop;
end $$;

create or replace function outbox.create_capture_trigger(capture outbox.captures, event text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  trigger_name text := outbox.capture_trigger(capture, event);
begin
  if exists (
    select
    from pg_trigger t
    where t.tgrelid = capture.table_name::regclass
      and t.tgname = trigger_name
      and t.tgfoid <> to_regprocedure(outbox.capture_function(capture, event) || '()')
  ) then
    raise exception '%: % has another trigger named "%"',
      case when event = 'insert' and capture.rule ? 'insert_trigger' then 'insert_trigger' else 'name' end,
      capture.table_name, trigger_name
      using errcode = 'invalid_parameter_value';
  end if;
  execute format(
    'create or replace trigger %I after %s on %s referencing %s for each statement execute function %s()',
    trigger_name, event, capture.table_name,
    case event
      when 'insert' then 'new table as inserted'
      when 'update' then 'old table as before_update new table as after_update'
      else 'old table as deleted'
    end,
    outbox.capture_function(capture, event)
  );
end $$;

-- A trigger that is there gets the name and the function that the rule now says, and stays disabled if it is. One that is
-- not there was dropped by a person.
create or replace function outbox.keep_capture_trigger(existing outbox.captures, wanted outbox.captures, event text)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  new_name text := outbox.capture_trigger(wanted, event);
  old_name text := coalesce(existing.triggers ->> event, new_name);
  found_trigger pg_trigger;
begin
  select t.* into found_trigger
  from pg_trigger t
  where t.tgrelid = wanted.table_name::regclass and t.tgname = old_name and not t.tgisinternal;
  if not found then
    return;
  end if;
  if old_name <> new_name then
    execute format('alter trigger %I on %s rename to %I', old_name, wanted.table_name, new_name);
  end if;
  if found_trigger.tgfoid <> to_regprocedure(outbox.capture_function(wanted, event) || '()') then
    execute format('drop trigger %I on %s', new_name, wanted.table_name);
    perform outbox.create_capture_trigger(wanted, event);
    execute format(
      'alter table %s %s trigger %I', wanted.table_name,
      case found_trigger.tgenabled
        when 'D' then 'disable'
        when 'R' then 'enable replica'
        when 'A' then 'enable always'
        else 'enable'
      end,
      new_name
    );
  end if;
end $$;

-- Brings the functions of a rule to what its text says. Takes no lock on the table.
create or replace function outbox.write_capture_functions(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  event text;
  function_name text;
  body text;
begin
  for event in select jsonb_array_elements_text(capture.rule -> 'events') loop
    function_name := outbox.capture_function(capture, event);
    body := outbox.capture_body(capture, event);
    if not exists (
      select from pg_proc p where p.oid = to_regprocedure(function_name || '()') and p.prosrc = body
    ) then
      execute format(
        'create or replace function %s() returns trigger language plpgsql security definer '
          'set search_path = pg_catalog, pg_temp set lock_timeout = ''200ms'' as %L',
        function_name, body
      );
      execute format('alter function %s() owner to outbox_owner', function_name);
      execute format('revoke execute on function %s() from public', function_name);
    end if;
  end loop;
end $$;

-- Drops the functions of `existing` that `wanted` does not use.
create or replace function outbox.drop_capture_functions(existing outbox.captures, wanted outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  unused text;
begin
  if existing.name is null then
    return;
  end if;
  for unused in
    select outbox.capture_function(existing, e.event)
    from jsonb_array_elements_text(existing.rule -> 'events') as e (event)
    except
    select outbox.capture_function(wanted, e.event)
    from jsonb_array_elements_text(wanted.rule -> 'events') as e (event)
  loop
    execute format('drop function if exists %s()', unused);
  end loop;
end $$;

create or replace function outbox.refresh_captures() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.write_capture_functions(c)
  from outbox.captures c
  where c.name is not null
    and exists (select from pg_index i where i.indrelid = to_regclass(c.table_name) and i.indisprimary);
end $$;

-- Whoever takes a capture away, by drop_capture or by deleting its row, gets it back by the next migrate if a family
-- declares it: families are installed anew. (Their numbered migrations have longer names.)
create or replace function outbox.forget_families() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from outbox.applied_files f where f.name ~ '^families/[^/]+$';
  return null;
end $$;

create or replace trigger forget_families
after delete on outbox.captures
for each statement execute function outbox.forget_families();

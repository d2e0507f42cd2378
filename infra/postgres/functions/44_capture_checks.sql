-- What outbox.capture() refuses. Messages begin with the name of the argument.

create or replace function outbox.refuse_capture(argument text, problem text, hint text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '%: %', argument, problem
    using errcode = 'invalid_parameter_value', hint = coalesce(refuse_capture.hint, 'See docs/capture.md.');
end $$;

-- The rule, its table under its full name, when it can be written; else raises.
create or replace function outbox.checked_capture(capture outbox.captures) returns outbox.captures
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.check_capture_name(capture);
  capture.table_name := outbox.checked_capture_table(capture.table_name);
  perform outbox.check_capture_job(capture);
  perform outbox.check_capture_events(capture);
  perform outbox.check_capture_columns(capture);
  perform outbox.check_capture_expressions(capture);
  perform outbox.check_capture_function(capture);
  return capture;
end $$;

create or replace function outbox.check_capture_name(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  other text;
begin
  if capture.name is null or capture.name !~ '^[a-z_][a-z0-9_.]{0,46}$' then
    -- With capture_ and _insert around it, it has to fit into the 63 bytes of a name.
    perform outbox.refuse_capture(
      'name', format('"%s" is no name of a capture', capture.name),
      'Up to 47 of a-z, 0-9, "_" and ".", not beginning with a digit or a dot.'
    );
  end if;
  select c.name into other
  from outbox.captures c
  where c.name <> capture.name and replace(c.name, '.', '_') = replace(capture.name, '.', '_');
  if found then
    perform outbox.refuse_capture('name', format('"%s" would share the functions of "%s"', capture.name, other));
  end if;
  if capture.rule ->> 'insert_trigger' = '' or octet_length(capture.rule ->> 'insert_trigger') > 63 then
    perform outbox.refuse_capture('insert_trigger', 'a name has 1 to 63 bytes');
  end if;
end $$;

create or replace function outbox.checked_capture_table(table_name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  found_table regclass;
begin
  begin
    found_table := to_regclass(checked_capture_table.table_name);
  exception when others then
    perform outbox.refuse_capture('table_name', sqlerrm);
  end;
  if found_table is null then
    perform outbox.refuse_capture(
      'table_name', format('there is no table "%s"', checked_capture_table.table_name),
      'Write it with its schema: public.users.'
    );
  elsif (select c.relkind not in ('r', 'p') or c.relpersistence = 't' from pg_class c where c.oid = found_table) then
    perform outbox.refuse_capture('table_name', format('%s is no table that lasts', found_table));
  elsif not exists (select from pg_index i where i.indrelid = found_table and i.indisprimary) then
    perform outbox.refuse_capture('table_name', format('%s has no primary key', found_table));
  elsif not (
    select has_schema_privilege('outbox_owner', c.relnamespace, 'usage') from pg_class c where c.oid = found_table
  ) then
    perform outbox.refuse_capture(
      'table_name', format('outbox_owner may not use the schema of %s', found_table),
      format(
        'grant usage on schema %I to outbox_owner',
        (select c.relnamespace::regnamespace::text from pg_class c where c.oid = found_table)
      )
    );
  end if;
  return found_table::text;
end $$;

create or replace function outbox.check_capture_job(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from outbox.job_types t where t.name = capture.job_name) then
    perform outbox.refuse_capture(
      'job_name', format('there is no job named "%s"', capture.job_name),
      'select name from outbox.job_types lists the jobs of this installation.'
    );
  elsif exists (
    select from outbox.captures c
    where c.table_name = capture.table_name and c.job_name = capture.job_name and c.name <> capture.name
  ) then
    perform outbox.refuse_capture(
      'job_name', format('another rule captures %s for %s', capture.table_name, capture.job_name),
      'A table has one rule for each job.'
    );
  end if;
end $$;

create or replace function outbox.check_capture_events(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(capture.rule -> 'events', '[]') = '[]' then
    perform outbox.refuse_capture('events', 'at least one of insert, update and delete');
  elsif not capture.rule -> 'events' <@ '["insert", "update", "delete"]' then
    perform outbox.refuse_capture(
      'events', format('%s are not all among insert, update and delete', capture.rule -> 'events')
    );
  elsif not capture.rule ? 'key' and capture.rule -> 'events' ? 'delete' then
    perform outbox.refuse_capture(
      'key', 'a delete cancels the job of the key, and there is none', 'Leave delete out of events.'
    );
  elsif not capture.rule ? 'key' and capture.rule ? 'cancel_when' then
    perform outbox.refuse_capture('key', 'cancel_when cancels the job of the key, and there is none');
  elsif not capture.rule ? 'key' and (capture.rule -> 'reschedule')::boolean then
    perform outbox.refuse_capture('key', 'reschedule moves the job of the key, and there is none');
  elsif capture.rule ?& array['scheduled_at', 'delay'] then
    perform outbox.refuse_capture('delay', 'scheduled_at says already when');
  elsif not capture.rule -> 'events' ? 'insert' and capture.rule ?| array['insert_trigger', 'insert_function'] then
    perform outbox.refuse_capture('events', 'without insert there is no insert_trigger or insert_function');
  end if;
end $$;

create or replace function outbox.check_capture_columns(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  unknown text;
begin
  if capture.rule -> 'columns' = '[]' then
    perform outbox.refuse_capture('columns', 'at least one, or null for all');
  end if;
  select c.name into unknown
  from jsonb_array_elements_text(capture.rule -> 'columns') as c (name)
  where not exists (
    select from pg_attribute a
    where a.attrelid = capture.table_name::regclass and a.attname = c.name and a.attnum > 0 and not a.attisdropped
  );
  if found then
    perform outbox.refuse_capture('columns', format('%s has no column "%s"', capture.table_name, unknown));
  end if;
end $$;

create or replace function outbox.check_capture_expressions(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.check_capture_expression(capture, e.field, e.test)
  from (
    values
      ('key', '::text is null'),
      ('when', ' is not true'), -- no cast: it has to be a boolean
      ('cancel_when', ' is not true'),
      ('payload', '::jsonb is null'),
      ('owner_id', '::uuid is null'),
      ('serial_key', '::text is null'),
      ('priority', '::int is null'),
      ('scheduled_at', '::timestamptz is null'),
      ('delay', '::interval is null')
  ) as e (field, test)
  where capture.rule ? e.field;
end $$;

-- Runs the expression over no row, as outbox_owner, as the trigger will: what PostgreSQL says against it, and rights that are
-- missing, come up now. In a condition, because aggregates and sets have no place there; beside a second row, so that a
-- column without "row." is ambiguous.
create or replace function outbox.check_capture_expression(capture outbox.captures, field text, test text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'select from (select (null::%1$s).* limit 0) as row, (select (null::%1$s).* limit 0) as other_row '
      'where (%2$s%3$s)%4$s',
    capture.table_name, capture.rule ->> field, E'\n', test
  );
exception when others then
  perform outbox.refuse_capture(
    field, sqlerrm, 'Columns are written row.column, and functions, types and tables with their schema.'
  );
end $$;

-- A function that is not ours, or that something else uses, is not overwritten.
create or replace function outbox.check_capture_function(capture outbox.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  wanted text := capture.rule ->> 'insert_function';
  parts text[];
begin
  if wanted is null then
    return;
  end if;
  begin
    parts := parse_ident(wanted);
  exception when invalid_parameter_value then
    parts := null;
  end;
  if cardinality(parts) is distinct from 2 or to_regnamespace(quote_ident(parts[1])) is null then
    perform outbox.refuse_capture('insert_function', format('"%s" is no function of a schema that exists', wanted));
  elsif parts[1] = 'outbox' then
    perform outbox.refuse_capture('insert_function', 'the schema outbox is for functions of our own');
  elsif exists (
    select from pg_proc p
    where p.oid = to_regprocedure(wanted || '()')
      and (p.proowner <> 'outbox_owner'::regrole or p.prorettype <> 'trigger'::regtype)
  ) then
    perform outbox.refuse_capture(
      'insert_function', format('%s exists, and is no trigger function of outbox_owner', wanted)
    );
  elsif exists (
    select from outbox.captures c where c.name <> capture.name and c.rule ->> 'insert_function' = wanted
  ) then
    perform outbox.refuse_capture('insert_function', format('another rule uses %s', wanted));
  end if;
end $$;

-- What a newer version of the code above would write differently.
select outbox.refresh_captures();

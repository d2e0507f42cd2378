-- The text of the trigger functions that rules of outbox.captures stand for, one per event.

-- The name of a rule's trigger, and of its function in the schema outbox, for an event.
create or replace function outbox.capture_object(name text, event text) returns text
language sql immutable parallel safe
return 'capture_' || replace(name, '.', '_') || '_' || event;

-- The function of a rule for an event, with its schema and quoted.
create or replace function outbox.capture_function(capture outbox.captures, event text) returns text
language sql stable set search_path = pg_catalog, pg_temp
return coalesce(
  (
    select string_agg(quote_ident(p.part), '.' order by p.position)
    from unnest(parse_ident(case when event = 'insert' then (capture).rule ->> 'insert_function' end))
      with ordinality as p (part, position)
  ),
  'outbox.' || quote_ident(outbox.capture_object((capture).name, event))
);

-- An expression of a rule, in brackets. The line break ends a comment it may end with.
create or replace function outbox.capture_expression(capture outbox.captures, field text, type text default 'text')
returns text
language sql immutable parallel safe
return '(' || ((capture).rule ->> field) || E'\n)::' || type;

-- Queries for the rows of an event, out of the transition tables: `changed` those that may want a job, `gone` those whose
-- job is not wanted any more (null: there are none). An update of a primary key is a delete and an insert.
-- The full join is on purpose: it can only be a hash or merge join. PostgreSQL keeps the plan of the first call for the
-- whole session, and the nested loop that suits one row takes 12 s for 10,000. A condition that a missing row does not meet
-- ("is not null" outside of the case; "when", but for the offset) would turn it into a left join, and that into the loop.
-- *<> compares the bytes: it works for types without equality (json), and sees a change of case in a citext.
create or replace function outbox.capture_sources(capture outbox.captures, event text, out changed text, out gone text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  events jsonb := capture.rule -> 'events';
  pairs text;
  first_key text;
  is_changed text;
begin
  if event = 'insert' then
    changed := 'select i.* from inserted i';
    return;
  elsif event = 'delete' then
    gone := 'select d.* from deleted d';
    return;
  end if;

  select string_agg(format('n.%1$I = o.%1$I', a.attname), ' and ' order by a.attnum), min(quote_ident(a.attname))
  into pairs, first_key
  from pg_index i
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
  where i.indrelid = capture.table_name::regclass and i.indisprimary;

  select coalesce(
    'row(' || string_agg('n.' || quote_ident(c.name), ', ') || ')::record *<> row('
      || string_agg('o.' || quote_ident(c.name), ', ') || ')::record',
    'n *<> o'
  )
  into is_changed
  from jsonb_array_elements_text(capture.rule -> 'columns') as c (name);

  changed := format(
    'select n.* from before_update o full join after_update n on %1$s '
      'where case when n.%2$s is null then false when o.%2$s is null then %3$s else %4$s end offset 0',
    pairs, first_key, (events ? 'insert')::text, is_changed
  );
  if events ? 'delete' then
    gone := format(
      'select o.* from before_update o full join after_update n on %s where n.%s is null', pairs, first_key
    );
  end if;
end $$;

-- The job of a row, as outbox.enqueue_captured takes it: the fields of outbox.wanted_job in their order. JSON's null is no
-- payload.
create or replace function outbox.capture_job(capture outbox.captures) returns text
language sql stable set search_path = pg_catalog, pg_temp
return format(
  'row(%s, %s, %s, %s, %s, null, null, %s, null)::outbox.wanted_job',
  coalesce(outbox.capture_expression(capture, 'key'), 'null'),
  coalesce('nullif(' || outbox.capture_expression(capture, 'payload', 'jsonb') || ', ''null'')', 'null'),
  coalesce(outbox.capture_expression(capture, 'owner_id', 'uuid'), 'null'),
  coalesce(
    outbox.capture_expression(capture, 'scheduled_at', 'timestamptz'),
    'now() + ' || outbox.capture_expression(capture, 'delay', 'interval'),
    'null'
  ),
  coalesce(outbox.capture_expression(capture, 'priority', 'int'), 'null'),
  coalesce(outbox.capture_expression(capture, 'serial_key'), 'null')
);

-- The call that writes what `wanted` and `unwanted`, two expressions, say.
create or replace function outbox.capture_call(capture outbox.captures, wanted text, unwanted text) returns text
language sql stable set search_path = pg_catalog, pg_temp
return format(
  $call$perform outbox.enqueue_captured(
    job_name => %L, reason => %L, reschedule => %s,
    wanted => %s,
    unwanted => %s
  )$call$,
  (capture).job_name, (capture).rule ->> 'reason', (capture).rule ->> 'reschedule', coalesce(wanted, 'null'),
  coalesce(unwanted, 'null')
);

-- Which rows want a job: not those that cancel one.
create or replace function outbox.capture_condition(capture outbox.captures) returns text
language sql stable set search_path = pg_catalog, pg_temp
return concat_ws(
  ' and ',
  outbox.capture_expression(capture, 'when', 'boolean'),
  outbox.capture_expression(capture, 'cancel_when', 'boolean') || ' is not true'
);

-- The statement that writes all rows of an event at once. Inserted rows cancel nothing.
create or replace function outbox.capture_all_rows(capture outbox.captures, event text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  source record := outbox.capture_sources(capture, event);
  keys text := 'select ' || outbox.capture_expression(capture, 'key') || ' from (';
  cancels text := outbox.capture_expression(capture, 'cancel_when', 'boolean');
begin
  return outbox.capture_call(
    capture,
    '(select array_agg(' || outbox.capture_job(capture) || ') from (' || source.changed || ') as row where '
      || outbox.capture_condition(capture) || ')',
    'array('
      || nullif(
        concat_ws(
          ' union all ',
          case when event = 'update' then keys || source.changed || ') as row where ' || cancels end,
          keys || source.gone || ') as row'
        ),
        ''
      )
      || ')'
  );
end $$;

-- The loop that writes them one by one: null when the event has no such rows.
create or replace function outbox.capture_row_by_row(capture outbox.captures, rows text, call text) returns text
language sql stable set search_path = pg_catalog, pg_temp
return '
    for row in ' || rows || ' loop
      row_key := null;
      begin
        row_key := ' || coalesce(outbox.capture_expression(capture, 'key'), 'null') || ';
        ' || call || ';
      exception when others then
        perform outbox.record_capture_error(
          table_name => ' || quote_literal((capture).table_name) || ',
          job_name => ' || quote_literal((capture).job_name) || ', key => row_key, sqlstate => sqlstate, message => sqlerrm
        );
      end;
      if clock_timestamp() - began > interval ''1 second'' then
        perform set_config(''lock_timeout'', ''1ms'', true);
      end if;
    end loop;';

-- The body of the function. What fails as a set is tried row by row, and what still fails is recorded, never raised: the
-- business write goes through. It waits 200 ms at most for a lock, and once it has waited for a second in all, no more.
-- It depends neither on the table's name nor on its row type: a rename, or a new column, breaks nothing.
create or replace function outbox.capture_body(capture outbox.captures, event text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  source record := outbox.capture_sources(capture, event);
  cancels text := outbox.capture_expression(capture, 'cancel_when', 'boolean');
begin
  return format(
    $body$
-- Written by outbox.capture(): the rule "%s" of outbox.captures. Declare that anew instead of changing this.
#variable_conflict use_column
begin
  %s;
  return null;
exception when others then
  declare
    row record;
    row_key text;
    began timestamptz := clock_timestamp();
  begin%s%s
    return null;
  exception when others then
    perform outbox.record_capture_error(
      table_name => %L, job_name => %L, key => null, sqlstate => sqlstate, message => sqlerrm
    );
    return null;
  end;
end $body$,
    capture.name,
    outbox.capture_all_rows(capture, event),
    outbox.capture_row_by_row(
      capture,
      source.changed,
      outbox.capture_call(
        capture,
        'case when ' || outbox.capture_condition(capture) || ' then array[' || outbox.capture_job(capture)
          || '] end',
        case when event = 'update' then 'case when ' || cancels || ' then array[row_key] end' end
      )
    ),
    outbox.capture_row_by_row(capture, source.gone, outbox.capture_call(capture, null, 'array[row_key]')),
    capture.table_name,
    capture.job_name
  );
end $$;

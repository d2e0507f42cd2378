-- What the generated functions of captures call while they run, as outbox_owner.

drop function if exists outbox.enqueue_or_move(text, jsonb); -- of an earlier version

-- Cancels the open jobs of the keys in `unwanted`, then enqueues `wanted` (see outbox.enqueue_many). A job does not capture
-- what it writes itself about its own key, nor cancel itself: writing back a result does not run it once more.
create or replace function outbox.enqueue_captured(
  job_name text,
  wanted outbox.wanted_job[],
  unwanted text[],
  reason text,
  reschedule boolean
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  own_key text;
  added outbox.added_job[];
begin
  if cardinality(unwanted) > 0 then
    perform outbox.cancel_many(names => array[job_name], keys => unwanted, reason => enqueue_captured.reason);
  end if;
  if wanted is null then
    return;
  end if;
  -- Asked for by workers only: looking it up costs a quarter of what the whole capture of a row does.
  if current_setting('outbox.current_job', true) <> '' then
    own_key := outbox.current_key(job_name);
  end if;
  if own_key is not null then
    wanted := array(select w from unnest(wanted) as w where w.key is distinct from own_key);
  end if;
  added := outbox.add_jobs(job_name, wanted);
  if cardinality(added) = cardinality(wanted) then
    return;
  elsif enqueue_captured.reschedule then
    perform outbox.move_duplicates(job_name, wanted, added);
  else
    perform outbox.meet_duplicates(job_name, wanted, added, rerun => true);
  end if;
end $$;

-- The same for functions that an earlier version generated. They are written anew by migrate, unless their table is not found
-- by its name, or its primary key is gone: renamed tables are captured as before.
create or replace function outbox.write_captured(
  job_name text,
  wanted jsonb,
  unwanted text[],
  reason text,
  reschedule boolean
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.enqueue_captured(
    job_name => write_captured.job_name, unwanted => write_captured.unwanted, reason => write_captured.reason,
    reschedule => write_captured.reschedule,
    wanted => case
      when write_captured.wanted is not null
      then array(select w from jsonb_populate_recordset(null::outbox.wanted_job, write_captured.wanted) w)
    end
  );
end $$;

-- The key of the job that this transaction is the work of, if it is a job of this name.
create or replace function outbox.current_key(job_name text) returns text
language sql stable set search_path = pg_catalog, pg_temp
return (
  select j.key
  from outbox.jobs j
  where j.id = nullif(current_setting('outbox.current_job', true), '')::bigint and j.name = current_key.job_name
);

-- Moves the duplicates that wait to the instant now asked for, also out of and back into BullMQ. They are locked by then, so
-- what is seen here holds. Only before their first attempt: one that backs off keeps the instant that its provider or its
-- backoff asked for; its next run reads the change anyway.
create or replace function outbox.move_duplicates(
  job_name text,
  wanted outbox.wanted_job[],
  added outbox.added_job[]
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.move_waiting(id => d.id, due => a.due)
  from outbox.meet_duplicates(job_name, wanted, added, rerun => true) d
  join (
    -- Of several rows with one key the last counts, as in enqueue_many.
    select distinct on (w.key) w.key, coalesce(w.scheduled_at, now() + coalesce(t.operator_delay, t.delay)) as due
    from unnest(move_duplicates.wanted) with ordinality as w
    cross join outbox.job_types t
    where t.name = move_duplicates.job_name
    order by w.key, w.ordinality desc
  ) a on a.key = d.key
  where not d.is_new;
end $$;

-- A statement of its own, so that it sees the row as the one that locked it left it.
create or replace function outbox.move_waiting(id bigint, due timestamptz) returns int
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform
  from outbox.jobs j
  where j.id = move_waiting.id
    and j.state in ('pending', 'published')
    and j.attempt = 0
    and j.cancel_requested_at is null
    and j.scheduled_at <> move_waiting.due;
  return case when found then outbox.reschedule(id => move_waiting.id, scheduled_at => move_waiting.due) end;
end $$;

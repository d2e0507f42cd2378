-- Cancels these jobs as far as they are open, as part of the caller's transaction, and returns how many.
--
--   pending, published → cancelled, and the bridge takes the job out of BullMQ
--   active             → cancel_requested_at: no effect of it starts any more (its start looks at this column under the
--                        row's lock), its worker aborts it within half a second, and it ends as cancelled
--   published, and nobody knows yet what became of a call it made → the same: one more run finds out, and ends it
--
-- Asked for again while it is about to end, it only forgets that it was to run once more after that.
-- Rows are locked in order of id, so that two cancels cannot deadlock; a row that a worker is just claiming or finishing
-- is waited for, which takes milliseconds. What it has become meanwhile is looked at by the next statement: in the same one
-- PostgreSQL first tries the row as it was before the wait, which the check constraints may refuse.
create or replace function outbox.cancel_jobs(ids bigint[], reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  locked bigint[];
  cancelled bigint;
begin
  select array_agg(o.id) into locked
  from (
    select j.id
    from outbox.jobs j
    where j.id = any (cancel_jobs.ids) and j.finished_at is null and (j.cancel_requested_at is null or j.rerun)
    order by j.id
    for no key update
  ) o;

  with open_jobs as (
    select
      j.id, j.cancel_requested_at is null as is_new,
      j.state = 'active'
        or exists (select from outbox.effects e where e.job_id = j.id and e.state = 'started') as ends_later
    from outbox.jobs j
    where j.id = any (locked)
  ),
  changed as (
    update outbox.jobs j
    set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()),
        reason = case when o.is_new then cancel_jobs.reason else j.reason end,
        rerun = false,
        state = case when o.ends_later then j.state else 'cancelled' end,
        finished_at = case when not o.ends_later then clock_timestamp() end,
        holds_key = j.holds_key and o.ends_later,
        admitted = j.admitted and o.ends_later
    from open_jobs o
    where j.id = o.id
    returning j.id, j.generation, j.queue, j.state, o.is_new
  ),
  removed as (
    insert into outbox.removals (queue, job_id, generation)
    select c.queue, c.id, c.generation
    from changed c
    where c.state = 'cancelled'
  )
  select count(*) filter (where c.is_new) into cancelled from changed c;
  return cancelled;
end $$;

-- The same by name and key, until nothing of them is open: one that just ended while we waited for it may have enqueued
-- its next run. The job that is writing right now does not cancel itself: a pause check sets the status that cancels pause
-- checks.
create or replace function outbox.cancel_many(names text[], keys text[], reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  current_job bigint := nullif(current_setting('outbox.current_job', true), '')::bigint;
  open_jobs bigint[];
  cancelled bigint := 0;
begin
  loop
    select array_agg(j.id) into open_jobs
    from outbox.jobs j
    where j.key = any (cancel_many.keys)
      and j.name = any (cancel_many.names)
      and j.finished_at is null
      and (j.cancel_requested_at is null or j.rerun)
      and j.id is distinct from current_job;
    if open_jobs is null then
      return cancelled;
    end if;
    cancelled := cancelled + outbox.cancel_jobs(ids => open_jobs, reason => cancel_many.reason);
  end loop;
end $$;

create or replace function outbox.cancel(name text, key text, reason text default 'cancelled') returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
return outbox.cancel_many(names => array[cancel.name], keys => array[cancel.key], reason => cancel.reason);

create or replace trigger wake_bridge
after insert on outbox.removals
for each statement execute function outbox.wake_bridge();

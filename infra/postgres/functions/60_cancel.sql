-- Cancels the open jobs of these names and keys, as part of the caller's transaction, and returns how many.
--
--   pending, published → cancelled, and the bridge takes the job out of BullMQ
--   active             → cancel_requested_at: no effect of it starts any more (its start looks at this column under the
--                        row's lock), its worker aborts it within half a second, and it ends as cancelled
--
-- The job that is writing right now does not cancel itself: a pause check sets the status that cancels pause checks.
-- Rows are locked in order of id, so that two cancels cannot deadlock; a row that a worker is just claiming or finishing
-- is waited for, which takes milliseconds.
create or replace function outbox.cancel_many(names text[], keys text[], reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  current_job bigint := nullif(current_setting('outbox.current_job', true), '')::bigint;
  cancelled bigint;
begin
  with open_jobs as (
    select j.id, j.state
    from outbox.jobs j
    where j.key = any (cancel_many.keys)
      and j.name = any (cancel_many.names)
      and j.finished_at is null
      and j.cancel_requested_at is null
      and j.id is distinct from current_job
    order by j.id
    for no key update
  ),
  changed as (
    update outbox.jobs j
    set cancel_requested_at = clock_timestamp(),
        reason = cancel_many.reason,
        state = case o.state when 'active' then 'active' else 'cancelled' end,
        finished_at = case o.state when 'active' then null else clock_timestamp() end,
        holds_key = j.holds_key and o.state = 'active'
    from open_jobs o
    where j.id = o.id
    returning j.id, j.generation, j.queue, j.state
  ),
  removed as (
    insert into outbox.removals (queue, job_id, generation)
    select c.queue, c.id, c.generation
    from changed c
    where c.state = 'cancelled'
  )
  select count(*) into cancelled from changed;
  return cancelled;
end $$;

create or replace function outbox.cancel(name text, key text, reason text default 'cancelled') returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
return outbox.cancel_many(names => array[cancel.name], keys => array[cancel.key], reason => cancel.reason);

create or replace trigger wake_bridge
after insert on outbox.removals
for each statement execute function outbox.wake_bridge();

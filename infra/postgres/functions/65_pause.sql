-- Pauses are decided here; the claim asks this table, and the bridge sets BullMQ's own pause from it, also after Redis has
-- lost everything. Both return whether anything changed, and raise OB006 for a queue that does not exist.

create or replace function outbox.pause_queue(name text, paused_by text, reason text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.assert_queue(pause_queue.name);
  update outbox.queues q
  set paused_at = clock_timestamp(), paused_by = pause_queue.paused_by, reason = pause_queue.reason
  where q.name = pause_queue.name and q.paused_at is null;
  return found;
end $$;

create or replace function outbox.resume_queue(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.assert_queue(resume_queue.name);
  update outbox.queues q
  set paused_at = null, paused_by = null, reason = null
  where q.name = resume_queue.name and q.paused_at is not null;
  return found;
end $$;

create or replace function outbox.assert_queue(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from outbox.queues q where q.name = assert_queue.name) then
    raise exception 'There is no queue named "%".', assert_queue.name
      using errcode = 'OB006', hint = 'select name from outbox.queues lists the queues of this installation.';
  end if;
end $$;

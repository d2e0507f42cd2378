-- Fires after every insert into outbox.ready and outbox.removals. Tells a sleeping bridge that there is work.
--
-- NOTIFY takes a lock on the whole database cluster at commit and would serialise all writers. So an awake bridge, which
-- finds the rows by itself, holds an advisory lock; only when we get that lock (shared, until our transaction ends) does
-- everybody sleep, and we notify. A bridge that falls asleep before we commit is not told: its first sleeps are short.
create or replace function outbox.wake_bridge() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_try_advisory_xact_lock_shared(outbox.awake_lock()) then
    perform pg_notify('outbox_ready', '');
  end if;
  return null;
end $$;

-- Held by a bridge that is awake. The number is arbitrary ("outbox" in ASCII).
create or replace function outbox.awake_lock() returns bigint
language sql immutable parallel safe
return 122524661739384;

create or replace trigger wake_bridge
after insert on outbox.ready
for each statement execute function outbox.wake_bridge();

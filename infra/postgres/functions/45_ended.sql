-- What the end of a row causes, whichever statement ended it.

-- Fires when a row that was asked to run again has ended: the next one is enqueued in the same transaction, so the change
-- that asked for it is acted on by a run that begins after it.
create or replace function outbox.run_again() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.enqueue(
    name => new.name, key => new.key, payload => new.payload, owner_id => new.owner_id, priority => new.priority,
    max_attempts => new.max_attempts, serial_key => new.serial_key, traceparent => new.traceparent
  );
  return null;
exception when others then
  perform outbox.record_capture_error(
    table_name => 'outbox.jobs', job_name => new.name, key => new.key, sqlstate => sqlstate, message => sqlerrm
  );
  return null;
end $$;

create or replace trigger run_again
after update on outbox.jobs
for each row when (new.rerun and new.finished_at is not null and old.finished_at is null)
execute function outbox.run_again();

-- The next of a serial key may have its turn: a sleeping bridge is told.
create or replace trigger wake_bridge_for_next_turn
after update on outbox.jobs
for each row when (old.admitted and not new.admitted)
execute function outbox.wake_bridge();

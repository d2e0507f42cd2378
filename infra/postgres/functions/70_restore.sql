-- Lets work go on after this database was restored to an older state, or failed over and lost its newest transactions.
-- `counter` is what the queue backend has seen. What BullMQ holds belongs to the time that was lost: empty it before.
--
-- Jobs that were open in the restored state may have run in the lost time, and made calls that the ledger does not know:
-- their runs ask the provider before they call (restored_from, restored_at). Numbers given out in the lost time are not
-- given out again: a worker that still holds one must not match.
create or replace function outbox.resume_after_restore(counter bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform setval('outbox.run', s.last_value + 1000000000) from outbox.run s;
  perform setval(pg_get_serial_sequence('outbox.jobs', 'id'), greatest((select max(j.id) from outbox.jobs j), 0) + 1000000000);
  perform setval(pg_get_serial_sequence('outbox.effects', 'id'), greatest((select max(e.id) from outbox.effects e), 0) + 1000000000);

  update outbox.meta m
  set restore_counter = greatest(m.restore_counter, resume_after_restore.counter) + 1,
      restored_from = case
        when m.restored_at > m.counted_at - interval '1 hour' then least(m.restored_from, m.counted_at)
        else m.counted_at
      end,
      restored_at = clock_timestamp(),
      counted_at = clock_timestamp();

  perform outbox.unpublish(ids => array_agg(j.id), generations => array_agg(j.generation), leased_too => true)
  from outbox.jobs j
  where j.state in ('published', 'active');
end $$;

-- Lets work go on after this database was restored to an older state, or failed over and lost its newest transactions.
-- `counter` is what the queue backend has seen. What BullMQ holds belongs to the time that was lost: empty it before.
--
-- Jobs that were open in the restored state may have run in the lost time, and made calls that the ledger does not know:
-- their runs ask the provider before they call (restored_from, restored_at). Numbers given out in the lost time are not
-- given out again: a worker that still holds one must not match. While a job may still run that was there at an earlier
-- restore, the time lost then stays part of what is unknown.
create or replace function outbox.resume_after_restore(counter bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform setval(s.name, nextval(s.name) + 1000000000)
  from (
    values
      ('outbox.run'::regclass),
      (pg_get_serial_sequence('outbox.jobs', 'id')::regclass),
      (pg_get_serial_sequence('outbox.effects', 'id')::regclass)
  ) as s (name);

  update outbox.meta m
  set restore_counter = greatest(m.restore_counter, resume_after_restore.counter) + 1,
      restored_from = case
        when exists (
          select from outbox.jobs j
          where j.created_at < m.restored_at and (j.finished_at is null or j.state = 'failed')
        )
        then least(m.restored_from, m.counted_at)
        else m.counted_at
      end,
      restored_at = clock_timestamp(),
      counted_at = clock_timestamp();

  perform outbox.unpublish(ids => array_agg(j.id), generations => array_agg(j.generation), leased_too => true)
  from outbox.jobs j
  where j.state in ('published', 'active');
end $$;

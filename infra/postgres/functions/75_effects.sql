-- What a person found out about an effect that nobody could tell: `confirmed`, it did happen; `rejected`, it did not, and
-- is not to happen any more. Raises OB007 when there is no such effect, OB008 when it is not unknown (any more).
-- Its job acts on the answer, which it finds in the ledger: if it has ended, it is enqueued once more; if it is running, it
-- may have looked already, and runs once more after that; if it waits, it has yet to look. A cancelled one stays cancelled:
-- nobody wants what else it would do. Returns the id of the job that was enqueued, null when none was.
create or replace function outbox.resolve_effect(id bigint, outcome text, note text, resolved_by text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  effect outbox.effects;
  job outbox.jobs;
begin
  if coalesce(resolve_effect.outcome, '') not in ('confirmed', 'rejected') then
    raise exception 'An effect is resolved as confirmed or rejected, not "%".', resolve_effect.outcome
      using errcode = 'OB008';
  end if;
  -- The job first, as the start of a call locks them.
  select j.* into job
  from outbox.jobs j
  where j.id = (select e.job_id from outbox.effects e where e.id = resolve_effect.id)
  for no key update;
  select e.* into effect from outbox.effects e where e.id = resolve_effect.id for update;
  if not found then
    raise exception 'There is no effect %.', resolve_effect.id using errcode = 'OB007';
  elsif effect.state <> 'unknown' then
    raise exception 'Effect % is %, not unknown.', effect.id, effect.state using errcode = 'OB008';
  end if;

  update outbox.effects e
  set state = resolve_effect.outcome,
      reference = case when resolve_effect.outcome = 'confirmed' then coalesce(e.reference, 'resolved:' || e.id) end,
      reason = 'resolved_by_a_person',
      note = resolve_effect.note,
      resolved_by = resolve_effect.resolved_by,
      settled_at = clock_timestamp()
  where e.id = resolve_effect.id;

  if job.finished_at is null or job.state = 'cancelled' then
    update outbox.jobs j set rerun = true
    where j.id = job.id and j.state = 'active' and j.cancel_requested_at is null;
    return null;
  end if;
  return (
    select e.id
    from outbox.enqueue(
      name => job.name, key => job.key, payload => job.payload, owner_id => job.owner_id, scheduled_at => clock_timestamp(),
      priority => job.priority, serial_key => job.serial_key, rerun => true
    ) e
  );
end $$;

-- Makes `backend` the one that serves this database. Whatever the old one held is gone for us, exactly as if Redis had
-- been lost: rows it had are pending again under a new generation, so that a job of the old life can never be taken for
-- one of the new. Call it with all processes stopped. Returns how many rows will be published again.
create or replace function outbox.switch_backend(backend text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  returned bigint;
begin
  update outbox.meta m set backend = switch_backend.backend;
  insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome)
  select j.id, j.run, j.attempt, j.locked_by, j.started_at, 'interrupted'
  from outbox.jobs j
  where j.state = 'active'
  on conflict do nothing;
  with returned_rows as (
    update outbox.jobs j
    set state = 'pending', generation = j.generation + 1, locked_by = null, locked_until = null, published_at = null,
        published_epoch = null, attempt = j.attempt - (j.state = 'active')::int,
        interruptions = j.interruptions + (j.state = 'active')::int
    where j.state in ('published', 'active')
    returning j.id, j.generation, j.priority, j.scheduled_at
  )
  insert into outbox.ready (job_id, generation, priority, scheduled_at, far)
  select r.id, r.generation, r.priority, r.scheduled_at, r.scheduled_at > now() + m.publish_window
  from returned_rows r cross join outbox.meta m;
  get diagnostics returned = row_count;
  return returned;
end $$;

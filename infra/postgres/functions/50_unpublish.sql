-- Takes rows back that BullMQ does not have any more, and returns how many. Safe to call with rows that have moved on: a
-- row counts only if it is still in the generation that was looked for.
--
--   published             → pending, generation + 1
--   active, its lease over → the same, and one interruption more; its attempt is not spent
--
-- The new generation is committed before anything of it is published, so a BullMQ job of the old life, should it turn up
-- again, is dropped by its claim and can never be taken for the new one. With remove => true BullMQ still has something of
-- the old life, and the bridge is asked to take it out.
drop function if exists outbox.unpublish(bigint[], int[], boolean);
create or replace function outbox.unpublish(
  ids bigint[],
  generations int[],
  leased_too boolean default false,
  remove boolean default false
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  returned bigint;
begin
  with lost as (
    select j.id, j.state = 'active' as was_active, j.run, j.attempt, j.locked_by, j.started_at
    from unnest(unpublish.ids, unpublish.generations) as l (id, generation)
    join outbox.jobs j on j.id = l.id and j.generation = l.generation
    where j.state = 'published'
      or (j.state = 'active' and (unpublish.leased_too or j.locked_until < clock_timestamp()))
    order by j.id
    for no key update of j skip locked
  ),
  noted as (
    insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome)
    select l.id, l.run, l.attempt, l.locked_by, l.started_at, 'interrupted'
    from lost l
    where l.was_active
    on conflict do nothing
  ),
  returned_rows as (
    update outbox.jobs j
    set state = 'pending', generation = j.generation + 1, attempt = j.attempt - l.was_active::int,
        interruptions = j.interruptions + l.was_active::int, locked_by = null, locked_until = null, published_at = null,
        published_epoch = null
    from lost l
    where j.id = l.id
    returning
      j.id, j.queue, j.generation, j.priority, j.scheduled_at,
      case when not j.admitted then j.serial_key end as serial_key -- an admitted row has had its turn
  ),
  made_ready as (
    insert into outbox.ready (job_id, generation, priority, scheduled_at, far, serial_key)
    select r.id, r.generation, r.priority, r.scheduled_at, r.scheduled_at > now() + m.publish_window, r.serial_key
    from returned_rows r join outbox.meta m on m.only_row
  ),
  removed as (
    insert into outbox.removals (queue, job_id, generation)
    select r.queue, r.id, r.generation - 1
    from returned_rows r
    where unpublish.remove
  )
  select count(*) into returned from returned_rows;
  return returned;
end $$;

-- Makes `backend` the one that serves this database: whatever the old one held is lost for us. Call it with all processes
-- stopped. Returns how many rows will be published again.
create or replace function outbox.switch_backend(backend text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update outbox.meta m set backend = switch_backend.backend;
  return (
    select outbox.unpublish(ids => array_agg(j.id), generations => array_agg(j.generation), leased_too => true)
    from outbox.jobs j
    where j.state in ('published', 'active')
  );
end $$;

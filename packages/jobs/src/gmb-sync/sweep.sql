-- The sweep, which the bridge calls once a minute. No trigger of this family writes jobs, so no job can have been missed, and
-- the sweep plans none. What it does:
--
--   returned    syncs that pick_sync_jobs gave out and nobody ended go back to the workers
--   cancelled   an open sync whose account is gone or inactive ends, unless a person has taken the rule away that does it
--   recovered   a failure that could not be told to the host at the time is told
--
-- and it keeps gmb.sync_worker_runs up to date.

set local role outbox_owner;

-- Told is how the account's last sync ended: a later success has been told by itself.
create or replace function gmb.recover_failures(batch int, out healed int, out failed int, out error text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  untold record;
  job outbox.jobs;
begin
  healed := 0;
  failed := 0;
  for untold in
    select e.id, e.key
    from outbox.capture_errors e
    where e.healed_at is null
      and e.job_name = 'gmb_sync'
      and e.table_name = 'public.sync_status'
      and e.captured_at > now() - interval '24 hours'
    order by e.id desc
    limit batch
    for no key update skip locked
  loop
    begin
      select j.* into job
      from outbox.jobs j
      where j.name = 'gmb_sync' and j.key = untold.key and j.finished_at is not null and j.state <> 'cancelled'
      order by j.finished_at desc
      limit 1;
      if job.state = 'failed' then
        perform gmb.record_failure(job);
      end if;
      update outbox.capture_errors e set healed_at = now() where e.id = untold.id;
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- What the rule gmb.accounts (capture.sql) missed: its triggers were disabled, or a lock was held for too long. One that runs
-- is left to its handler, which looks at the account first.
create or replace function gmb.cancel_unwanted(batch int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  unwanted bigint[];
begin
  if not exists (select from outbox.captures c where c.name = 'gmb.accounts' and c.enabled) then
    return 0;
  end if;
  select array_agg(u.id) into unwanted
  from (
    select j.id
    from outbox.jobs j
    left join gmb.account_source a on a.id = outbox.uuid_or_null(j.payload ->> 'accountId')
    where j.name = 'gmb_sync'
      and j.finished_at is null
      and j.state <> 'active'
      and j.cancel_requested_at is null
      and a.is_active is not true
    order by j.id
    limit cancel_unwanted.batch
    for no key update of j skip locked
  ) u;
  update outbox.capture_errors e
  set healed_at = now()
  where e.healed_at is null and e.job_name = 'gmb_sync' and e.table_name = 'public.gmb_accounts';
  return coalesce(outbox.cancel_jobs(ids => unwanted, reason => 'account_inactive'), 0);
end $$;

create or replace function gmb.sweep() returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
  batch constant int := 200;
  recovered record;
  returned int;
  cancelled int;
begin
  -- Held until the end of the transaction. The number is arbitrary.
  if not pg_try_advisory_xact_lock(122524661739404) then
    return null;
  end if;
  returned := gmb.take_back_picked();
  cancelled := gmb.cancel_unwanted(batch);
  recovered := gmb.recover_failures(batch);
  perform gmb.keep_worker_runs();
  delete from gmb.location_marks m where not exists (select from gmb.account_source a where a.id = m.account_id);
  delete from gmb.account_marks m where not exists (select from gmb.account_source a where a.id = m.account_id);
  return jsonb_build_object(
    'returned', returned, 'cancelled', cancelled, 'recovered', recovered.healed, 'failed', recovered.failed,
    'error', recovered.error, 'more', recovered.healed >= batch or cancelled >= batch
  );
end $$;

reset role;

-- Who may do what with the family's schema. anon, authenticated and service_role are Supabase's; where they are missing
-- (plain Postgres) nothing is granted to them.

set local role outbox_owner;

revoke execute on all functions in schema gmb from public;

grant usage on schema gmb to outbox_worker, outbox_bridge, outbox_api;
grant select on gmb.account_source, gmb.account_tokens, gmb.account_marks to outbox_worker;
grant execute on function
  gmb.record_access_token(uuid, text, timestamptz, text), gmb.require_reconnection(uuid, text, text),
  gmb.record_google_name(uuid, text), gmb.record_locations(uuid, jsonb), gmb.end_locations(uuid, text[], timestamptz),
  gmb.record_reviews(uuid, text, jsonb), gmb.end_reviews(uuid, text, bigint, timestamptz, timestamptz, text[]),
  gmb.note_problem(uuid, text, bigint, text, text), gmb.location_progress(uuid, bigint),
  gmb.record_success(uuid, text, boolean), gmb.log_error(uuid, text, text, jsonb)
  to outbox_worker;
grant execute on function gmb.sweep() to outbox_bridge;
grant select on gmb.account_source, gmb.sync_queue to outbox_api;
grant execute on function
  gmb.enqueue_sync(uuid, uuid, text, int, timestamptz, int, jsonb), gmb.user_queue(uuid), gmb.queue_diagnostics(),
  gmb.begin_worker_run(uuid), gmb.finish_worker_run(uuid, int, int, int, int, text, jsonb)
  to outbox_api;

do $$
begin
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema gmb to service_role;
    grant select, insert, update, delete on gmb.sync_queue to service_role;
    grant select on gmb.sync_worker_runs, gmb.account_source to service_role;
    grant execute on function
      gmb.enqueue_sync(uuid, uuid, text, int, timestamptz, int, jsonb), gmb.schedule_syncs(text, interval, int),
      gmb.user_queue(uuid), gmb.queue_diagnostics(), gmb.pick_sync_jobs(int), gmb.mark_stale_sync_jobs(int),
      gmb.begin_worker_run(uuid), gmb.finish_worker_run(uuid, int, int, int, int, text, jsonb)
      to service_role;
    drop policy if exists service_role_sees_all_runs on gmb.sync_worker_runs;
    create policy service_role_sees_all_runs on gmb.sync_worker_runs for select to service_role using (true);
  end if;
  if exists (select from pg_roles where rolname = 'authenticated') then
    grant usage on schema gmb to authenticated;
    grant select on gmb.sync_queue to authenticated;
    -- The view shows it, as its owner's right to read the rows themselves does not yet.
    grant select (priority) on outbox.jobs to authenticated;
  end if;
end $$;

reset role;

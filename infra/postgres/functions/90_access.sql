-- Who may do what. Re-applied, after all functions, by every migrate that finds one of these files changed.
-- anon, authenticated and service_role are Supabase's; where they are missing (plain Postgres) nothing is granted to them.

grant usage on schema outbox to outbox_bridge, outbox_worker, outbox_api;

grant select on all tables in schema outbox to outbox_bridge, outbox_worker, outbox_api;
grant update (publish_window, restore_counter, counted_at) on outbox.meta to outbox_bridge;
grant insert, update on outbox.repairs to outbox_bridge;
grant update on outbox.jobs to outbox_bridge, outbox_worker;
grant delete on outbox.jobs, outbox.attempts, outbox.idempotency_keys, outbox.effects to outbox_bridge;
grant select, update, delete on outbox.ready to outbox_bridge;
grant select, insert, update, delete on outbox.removals to outbox_bridge;
grant insert, update, delete on outbox.services to outbox_bridge, outbox_worker, outbox_api;
grant usage on sequence outbox.run to outbox_worker;
grant insert on outbox.attempts to outbox_worker;
grant insert, update, delete on outbox.effects to outbox_worker;
grant insert on outbox.audit to outbox_api;
grant update (epoch) on outbox.queues to outbox_bridge;

revoke execute on all functions in schema outbox from public;
grant execute on function outbox.job_uuid(bigint), outbox.job_id(uuid), outbox.uuid_or_null(text), outbox.awake_lock()
  to outbox_bridge, outbox_worker, outbox_api;
grant execute on function outbox.new_run() to outbox_worker;
grant execute on function outbox.unpublish(bigint[], int[], boolean, boolean) to outbox_bridge;
grant execute on function
  outbox.enqueue(text, text, jsonb, uuid, timestamptz, int, int, text, text, text, boolean),
  outbox.enqueue_many(text, jsonb, boolean), outbox.cancel(text, text, text), outbox.cancel_many(text[], text[], text)
  to outbox_worker, outbox_api;
grant execute on function
  outbox.pass_gate(bigint, text, text), outbox.note_provider_failure(text, text, bigint, text, boolean),
  outbox.note_provider_answers(text[], text[]), outbox.release_probe(bigint),
  outbox.note_provider_limit(text, text, float8), outbox.take_turns(text[], text[], float8)
  to outbox_worker;
grant execute on function
  outbox.cancel_jobs(bigint[], text), outbox.reschedule(bigint, timestamptz), outbox.run_now(bigint),
  outbox.redrive(bigint), outbox.pause_queue(text, text, text), outbox.resume_queue(text),
  outbox.pause_provider(text, text, text), outbox.resume_provider(text), outbox.resolve_effect(bigint, text, text, text)
  to outbox_api;

alter table outbox.jobs enable row level security;
drop policy if exists services_work_on_all_jobs on outbox.jobs;
create policy services_work_on_all_jobs on outbox.jobs
  for all to outbox_bridge, outbox_worker, outbox_api using (true) with check (true);

do $$
begin
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema outbox to service_role;
    grant select on all tables in schema outbox to service_role;
    grant execute on function
      outbox.enqueue(text, text, jsonb, uuid, timestamptz, int, int, text, text, text, boolean),
      outbox.enqueue_many(text, jsonb, boolean), outbox.cancel(text, text, text),
      outbox.cancel_many(text[], text[], text), outbox.cancel_jobs(bigint[], text),
      outbox.reschedule(bigint, timestamptz), outbox.run_now(bigint), outbox.redrive(bigint),
      outbox.pause_queue(text, text, text), outbox.resume_queue(text), outbox.pause_provider(text, text, text),
      outbox.resume_provider(text), outbox.resolve_effect(bigint, text, text, text), outbox.job_uuid(bigint), outbox.job_id(uuid), outbox.uuid_or_null(text)
      to service_role;
    drop policy if exists service_role_sees_all_jobs on outbox.jobs;
    create policy service_role_sees_all_jobs on outbox.jobs for select to service_role using (true);
  end if;

  if exists (select from pg_roles where rolname = 'authenticated') then
    -- People read their own rows, and of those not what the machinery notes about itself.
    grant usage on schema outbox to authenticated;
    grant select (
      id, name, key, owner_id, payload, state, attempt, max_attempts, last_error, reason, scheduled_at, due_at, created_at,
      started_at, finished_at
    ) on outbox.jobs to authenticated;
    grant execute on function outbox.request_user(), outbox.job_uuid(bigint), outbox.uuid_or_null(text) to authenticated;
    drop policy if exists owners_read_their_jobs on outbox.jobs;
    create policy owners_read_their_jobs on outbox.jobs
      for select to authenticated using (owner_id = (select outbox.request_user()));
  end if;
end $$;

-- Who may do what. The last file of the family, so that it finds everything.
-- anon, authenticated and service_role are Supabase's; where they are missing (plain Postgres) nothing is granted to them.

set local role outbox_owner;

revoke execute on all functions in schema bubble from public;
grant usage on schema bubble to outbox_worker, outbox_bridge, outbox_api;
grant select on bubble.user_source, bubble.creates to outbox_worker;
grant execute on function bubble.record_sync(uuid, text) to outbox_worker;
grant execute on function bubble.sweep() to outbox_bridge;
grant execute on function bubble.invoke_bubble_sync_processor(), bubble.invoke_bubble_sync_retry(), bubble.health_check()
  to outbox_api;

do $$
begin
  if exists (select from pg_roles where rolname = 'anon') then
    revoke all on all functions in schema bubble from anon;
    revoke all on all tables in schema bubble from anon;
  end if;
  if exists (select from pg_roles where rolname = 'authenticated') then
    -- People see the rows of their own sync (the policy of outbox.jobs), and change nothing.
    revoke all on all functions in schema bubble from authenticated;
    grant usage on schema bubble to authenticated;
    grant select on bubble.sync_queue to authenticated;
    grant select (priority) on outbox.jobs to authenticated;
  end if;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema bubble to service_role;
    grant select, insert, update, delete on bubble.sync_queue to service_role;
    grant execute on function bubble.invoke_bubble_sync_processor(), bubble.invoke_bubble_sync_retry(), bubble.health_check()
      to service_role;
  end if;
end $$;

reset role;

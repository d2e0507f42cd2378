-- Where this job touches the host application's tables. It is started by the reminder, so it has no trigger.

set local role outbox_owner;

-- Pauses a running auto sync; false when it is not running any more.
create or replace function reminders.pause(auto_sync_id uuid) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with paused as (
    update public.auto_syncs s
    set status = 'paused', paused_at = now()
    where s.id = pause.auto_sync_id and s.status = 'running'
    returning 1
  )
  select exists (select from paused);
end;

revoke execute on function reminders.pause(uuid) from public;
grant execute on function reminders.pause(uuid) to outbox_worker;

reset role;

-- Run by migrate as the login role, before everything else; safe to repeat.
-- Roles of ours cannot log in: a login role takes one of them (DATABASE_ROLE) and can then do no more than its part.
-- outbox_owner owns the schema and whatever is "security definer" in it, so that no trigger of ours acts as a superuser.
do $$
declare
  role_name text;
begin
  foreach role_name in array array['outbox_owner', 'outbox_bridge', 'outbox_worker', 'outbox_api'] loop
    begin
      if not exists (select from pg_roles where rolname = role_name) then
        execute format('create role %I nologin', role_name);
      end if;
    exception when duplicate_object or unique_violation then
      null; -- another database of this cluster is being migrated at the same moment
    end;
    -- Since version 16 being a member is not enough to take a role; 15 does not know the difference.
    if not pg_has_role(current_user, role_name, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)
    then
      execute format('grant %I to current_user', role_name);
    end if;
  end loop;
end $$;

create schema if not exists outbox authorization outbox_owner;

-- Everything this family knows about the host application's tables. A host with other tables adapts these views and
-- functions; no handler names a host table. The first part runs as the login role, the second as outbox_owner.

create schema if not exists reminders authorization outbox_owner;
grant usage on schema public to outbox_owner;
grant select on public.auto_syncs, public.crew_members, public.contacts, public.auto_sync_responses to outbox_owner;
grant select, insert on public.auto_sync_messages to outbox_owner;
grant update (status, paused_at, last_reminder_sent_at) on public.auto_syncs to outbox_owner;

do $$
declare
  host_table regclass;
begin
  -- With row level security on these tables, now or later, the family works for every organizer.
  foreach host_table in array array[
    'public.auto_syncs', 'public.crew_members', 'public.contacts', 'public.auto_sync_responses',
    'public.auto_sync_messages'
  ]::regclass[] loop
    if not exists (
      select from pg_policy p where p.polrelid = host_table and p.polname = 'outbox_owner_works_for_organizers'
    ) then
      execute format(
        'create policy outbox_owner_works_for_organizers on %s for all to outbox_owner using (true) with check (true)',
        host_table
      );
    end if;
  end loop;
end $$;

set local role outbox_owner;
grant usage on schema reminders to outbox_worker, outbox_api;

-- One row per auto sync: how it stands. Named so that it does not hide the table when both schemas are searched. A goal of
-- critical mass asks for metadata.critical_mass answers, else for half of the members, rounded up; everyone asks for all of
-- them. Quiet hours are those of timezone.
create or replace view reminders.standings as
select
  s.id, s.organizer_id, s.event_name, s.status::text as status, s.response_goal::text as response_goal,
  s.last_reminder_sent_at, c.member_count, c.response_count,
  case
    when s.response_goal = 'everyone' then c.member_count
    when s.metadata ->> 'critical_mass' ~ '^\d{1,9}$' then (s.metadata ->> 'critical_mass')::bigint
    else (c.member_count + 1) / 2
  end as responses_needed,
  s.timezone
from public.auto_syncs s
cross join lateral (
  select count(*) as member_count, count(*) filter (where r.responded) as response_count
  from public.crew_members m
  cross join lateral (
    select exists (
      select from public.auto_sync_responses r where r.auto_sync_id = s.id and r.contact_id = m.contact_id
    ) as responded
  ) r
  where m.crew_id = s.crew_id
) c;

-- Whom a reminder goes to: every member of the crew who has not responded. phone is null for who has none.
create or replace view reminders.recipients as
select s.id as auto_sync_id, c.id as contact_id, c.name, nullif(trim(c.phone), '') as phone
from public.auto_syncs s
join public.crew_members m on m.crew_id = s.crew_id
join public.contacts c on c.id = m.contact_id
where not exists (
  select from public.auto_sync_responses r where r.auto_sync_id = s.id and r.contact_id = c.id
);

-- The texts of an auto sync's reminder as the effect ledger knows them: one row per member that was or may have been
-- texted, by whichever job and attempt. Keys: reminder:<auto sync>:<contact>:<sequence>.
create or replace view reminders.texts as
select
  outbox.uuid_or_null(split_part(e.key, ':', 2)) as auto_sync_id,
  outbox.uuid_or_null(split_part(e.key, ':', 3)) as contact_id,
  e.key, e.state, e.reference, e.reason, e.request ->> 'body' as body, e.settled_at, e.job_id
from outbox.effects e
where e.key like 'reminder:%';

-- Records every text that was sent and is not recorded yet, and returns how many were sent in all. It reads the ledger
-- rather than the handler's memory: a text sent by an attempt that died, to somebody who has answered since, counts too.
create or replace function reminders.record_messages(auto_sync_id uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  prefix text := 'reminder:' || record_messages.auto_sync_id || ':';
begin
  -- One at a time: the worker that ends the reminder and a pause that stops it would both record the same text.
  perform from public.auto_syncs s where s.id = record_messages.auto_sync_id for no key update;

  insert into public.auto_sync_messages (auto_sync_id, contact_id, message_type, body, provider_sid, sent_at)
  select record_messages.auto_sync_id, c.id, 'reminder', t.body, t.reference, t.settled_at
  from reminders.texts t
  left join public.contacts c on c.id = t.contact_id -- null for who was deleted since
  where t.key >= prefix
    and t.key < prefix || '~'
    and t.state = 'confirmed'
    and exists (select from public.auto_syncs s where s.id = record_messages.auto_sync_id)
    and not exists (
      select from public.auto_sync_messages m
      where m.auto_sync_id = record_messages.auto_sync_id and m.provider_sid = t.reference
    )
  order by t.settled_at;

  return (
    select count(*) from reminders.texts t where t.key >= prefix and t.key < prefix || '~' and t.state = 'confirmed'
  );
end $$;

-- Notes that the reminder went out. False when the auto sync is not running any more: then nothing is to follow.
create or replace function reminders.mark_reminded(auto_sync_id uuid) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with marked as (
    update public.auto_syncs s
    set last_reminder_sent_at = now()
    where s.id = mark_reminded.auto_sync_id and s.status = 'running'
    returning 1
  )
  select exists (select from marked);
end;

-- What follows once people have been texted: their texts are recorded, and a running auto sync is marked as reminded and
-- gets its pause check, 48 h from now. Reads the ledger, so it may be said as often as one likes, by whichever run; only
-- the first time has consequences. Returns how many were texted in all.
create or replace function reminders.follow_up(auto_sync_id uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  sent bigint;
  sync record;
begin
  select s.organizer_id, s.last_reminder_sent_at is not null as reminded into sync
  from public.auto_syncs s
  where s.id = follow_up.auto_sync_id
  for no key update;
  sent := reminders.record_messages(follow_up.auto_sync_id);
  if sent > 0 and not sync.reminded and reminders.mark_reminded(follow_up.auto_sync_id) then
    perform outbox.enqueue(
      name => 'pause_check_48h', key => follow_up.auto_sync_id::text,
      payload => jsonb_build_object('autoSyncId', follow_up.auto_sync_id), owner_id => sync.organizer_id, rerun => true
    );
  end if;
  return sent;
end $$;

-- Fires after an update of auto syncs, once per statement, and looks at those whose status changed between running and not.
-- Paused, stopped or completed: no job of it stays open. Running again: if no reminder went out yet, one is planned for
-- 24 h after its creation, or now if that is past; otherwise only a pause check, 48 h from now. Nobody is texted twice:
-- the texts of the first reminder are in the ledger. Never fails the update: what cannot be done is set aside in
-- outbox.capture_errors. By hand and not by a rule, because one status decides about two jobs, and about the texts.
-- lock_timeout: a duplicate key would make the business write wait for another transaction without end.
create or replace function reminders.follow_status() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
  changed record;
begin
  for changed in
    select n.id, n.organizer_id, n.created_at, n.last_reminder_sent_at, n.status = 'running' as resumed
    from after_update n
    join before_update o on o.id = n.id
    where (o.status = 'running') <> (n.status = 'running')
    order by n.id
  loop
    begin
      if not changed.resumed then
        perform reminders.cancel_jobs(array[changed.id]);
        perform reminders.record_half_done(changed.id);
      elsif changed.last_reminder_sent_at is null then
        perform outbox.enqueue(
          name => 'reminder_24h', key => changed.id::text, payload => jsonb_build_object('autoSyncId', changed.id),
          owner_id => changed.organizer_id,
          scheduled_at => greatest(now(), changed.created_at + reminders.reminder_delay()), rerun => true
        );
      else
        perform outbox.enqueue(
          name => 'pause_check_48h', key => changed.id::text, payload => jsonb_build_object('autoSyncId', changed.id),
          owner_id => changed.organizer_id, rerun => true
        );
      end if;
    exception when others then
      perform outbox.record_capture_error(
        table_name => 'public.auto_syncs', job_name => 'reminder_24h', key => changed.id::text, sqlstate => sqlstate,
        message => sqlerrm
      );
    end;
  end loop;
  return null;
end $$;

-- Fires after a delete of auto syncs, once per statement: their jobs end. The rows stay until they are pruned, without an
-- owner, so that nobody but the service reads them. Never fails the delete.
create or replace function reminders.follow_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
  perform reminders.cancel_jobs(array(select d.id from deleted d));
  begin
    perform reminders.disown_jobs(array(select d.id from deleted d));
  exception when others then
    perform outbox.record_capture_error(
      table_name => 'public.auto_syncs', job_name => 'reminder_24h', key => d.id::text, sqlstate => sqlstate,
      message => sqlerrm
    )
    from deleted d;
  end;
  return null;
exception when others then
  perform outbox.record_capture_error(
    table_name => 'public.auto_syncs', job_name => 'reminder_24h', key => d.id::text, sqlstate => sqlstate,
    message => sqlerrm
  )
  from deleted d;
  return null;
end $$;

-- Texts of a reminder that was stopped half way: it will not come to record them. What goes wrong here must not undo the
-- cancellation.
create or replace function reminders.record_half_done(auto_sync_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- Most were not begun: a look at the ledger is cheap, and a session plans the rest only when it has to.
  if exists (
    select from outbox.effects e
    where e.key >= 'reminder:' || record_half_done.auto_sync_id || ':'
      and e.key < 'reminder:' || record_half_done.auto_sync_id || ':~'
  ) then
    perform reminders.record_messages(record_half_done.auto_sync_id);
  end if;
exception when others then
  perform outbox.record_capture_error(
    table_name => 'public.auto_sync_messages', job_name => 'reminder_24h', key => record_half_done.auto_sync_id::text,
    sqlstate => sqlstate, message => sqlerrm
  );
end $$;

create or replace function reminders.cancel_jobs(auto_sync_ids uuid[]) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
return outbox.cancel_many(
  names => array['reminder_24h', 'pause_check_48h'], keys => cancel_jobs.auto_sync_ids::text[],
  reason => 'auto_sync_not_running'
);

-- The jobs of auto syncs that are gone belong to nobody any more.
create or replace function reminders.disown_jobs(auto_sync_ids uuid[]) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update outbox.jobs j
  set owner_id = null
  where j.id in (
    select o.id
    from outbox.jobs o
    where o.key = any (disown_jobs.auto_sync_ids::text[])
      and o.name in ('reminder_24h', 'pause_check_48h')
      and o.owner_id is not null
    order by o.id
    for no key update
  );
end;

drop function if exists reminders.has_trigger(text);

-- Whether the auto sync that a job's payload names is this user's: nobody else may ask the API for such a job.
create or replace function reminders.is_organizer(user_id uuid, payload jsonb) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
return exists (
  select
  from public.auto_syncs s
  where s.id = outbox.uuid_or_null(is_organizer.payload ->> 'autoSyncId') and s.organizer_id = is_organizer.user_id
);

-- How long after its creation an auto sync is reminded; outbox.job_types decides.
create or replace function reminders.reminder_delay() returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp
return (select coalesce(t.operator_delay, t.delay) from outbox.job_types t where t.name = 'reminder_24h');

revoke execute on all functions in schema reminders from public;
grant select on reminders.standings, reminders.recipients, reminders.texts to outbox_worker;
grant execute on function reminders.record_messages(uuid), reminders.follow_up(uuid) to outbox_worker;
grant execute on function reminders.is_organizer(uuid, jsonb) to outbox_api;
revoke execute on function reminders.mark_reminded(uuid) from outbox_worker; -- it follows up

reset role;

-- A trigger that a person dropped or disabled is not ours to restore: these two come with the family's first installation.
do $$
begin
  if not exists (select from outbox.captures where table_name = 'public.auto_syncs' and job_name = 'reminder_24h') then
    create or replace trigger on_auto_sync_status_changed
    after update on public.auto_syncs
    referencing old table as before_update new table as after_update
    for each statement execute function reminders.follow_status();

    create or replace trigger on_auto_sync_deleted
    after delete on public.auto_syncs
    referencing old table as deleted
    for each statement execute function reminders.follow_delete();
  end if;
end $$;

-- An auto sync that is inserted running gets a reminder, 24 h after the insert (outbox.job_types decides).
select outbox.capture(
  name => 'reminders.auto_syncs', table_name => 'public.auto_syncs', job_name => 'reminder_24h', key => 'row.id::text',
  "when" => $$row.status = 'running'$$, payload => $$jsonb_build_object('autoSyncId', row.id)$$,
  owner_id => 'row.organizer_id', events => '{insert}', insert_trigger => 'on_auto_sync_created',
  insert_function => 'reminders.schedule_first_reminder'
);

-- What doctor looks for besides.
update outbox.captures
set triggers = triggers || '{"update": "on_auto_sync_status_changed", "delete": "on_auto_sync_deleted"}'
where name = 'reminders.auto_syncs';

-- The sweep: what the triggers could not do at the time is done about a minute later. Called by the bridge.
--
--   recovered   what a capture set aside (outbox.capture_errors): planned or cancelled as the auto sync stands now
--   planned     a running auto sync that never had a reminder gets one: its trigger was disabled, or it and the note about
--               its error were lost
--   cancelled   an open job whose auto sync is gone or not running ends
--   recorded    texts of a reminder that failed or was cancelled, and that nobody has recorded, are, and are followed up
--
-- It never texts the past: it plans nothing older than the rows we keep, nor older than the capture, nor while a person
-- has dropped or disabled the trigger or the capture.
--
-- It never holds up a business write: it skips locked jobs, gives up on any other lock after 200 ms, and each call heals a
-- few rows of one kind and ends, so that their locks are held for milliseconds and not while the next kind is looked for.
-- One bad row is left for the next time and does not stop the rest; the newest come first, so that rows which cannot be
-- healed do not keep the others from it.

set local role outbox_owner;

-- Since when auto syncs are captured; null while they are not, by a person's decision.
create or replace function reminders.captured_since() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return (
  select c.enabled_at
  from outbox.captures c
  where c.table_name = 'public.auto_syncs'
    and c.job_name = 'reminder_24h'
    and c.enabled
    and exists (
      select from pg_trigger t
      where t.tgrelid = 'public.auto_syncs'::regclass
        and t.tgname = 'on_auto_sync_created'
        and t.tgfoid = to_regproc('reminders.schedule_first_reminder') -- by name: drop_capture takes it away
        and t.tgenabled in ('O', 'A')
    )
);

-- A job of an auto sync created longer ago may have been pruned: that there is none says nothing.
create or replace function reminders.jobs_are_known_for() returns interval
language sql stable set search_path = pg_catalog, pg_temp
return (
  select least(coalesce(t.operator_retention, t.retention), coalesce(t.operator_failed_retention, t.failed_retention))
  from outbox.job_types t
  where t.name = 'reminder_24h'
);

create or replace function reminders.plan_missing(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  since timestamptz := greatest(reminders.captured_since(), now() - reminders.jobs_are_known_for());
  missing record;
begin
  healed := 0;
  failed := 0;
  if reminders.captured_since() is null then
    return;
  end if;
  for missing in
    select s.id, s.organizer_id, s.created_at
    from public.auto_syncs s
    where s.status = 'running'
      and s.last_reminder_sent_at is null
      and s.created_at between since and now()
      and not exists (select from outbox.jobs j where j.key = s.id::text and j.name = 'reminder_24h')
    order by s.created_at desc, s.id
    limit batch
  loop
    begin
      perform outbox.enqueue(
        name => 'reminder_24h', key => missing.id::text, payload => jsonb_build_object('autoSyncId', missing.id),
        owner_id => missing.organizer_id,
        scheduled_at => greatest(now(), missing.created_at + reminders.reminder_delay()), rerun => true
      );
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- Cancels these open jobs of an auto sync if it is not running. False when it is, or one of them is locked.
-- Once they are locked, whoever changes the status either has committed or waits for us in its trigger: so it is looked at
-- afterwards, or a job that a person has just resumed would be cancelled for what was before.
create or replace function reminders.cancel_unless_running(auto_sync_id uuid, job_ids bigint[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  locked bigint[] := array(
    select j.id
    from outbox.jobs j
    where j.id = any (cancel_unless_running.job_ids) and j.finished_at is null
    order by j.id
    for no key update skip locked
  );
begin
  if exists (select from public.auto_syncs s where s.id = cancel_unless_running.auto_sync_id and s.status = 'running') then
    return false;
  end if;
  perform outbox.cancel_jobs(ids => locked, reason => 'auto_sync_not_running');
  return not exists (
    select from outbox.jobs j
    where j.id = any (cancel_unless_running.job_ids) and j.finished_at is null and j.cancel_requested_at is null
  );
end $$;

-- What is left of an auto sync that is not running: texts to record, or, when it is gone, jobs without an owner.
create or replace function reminders.tidy_up(auto_sync_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from public.auto_syncs s where s.id = tidy_up.auto_sync_id) then
    perform reminders.record_messages(tidy_up.auto_sync_id);
  else
    perform reminders.disown_jobs(array[tidy_up.auto_sync_id]);
  end if;
end $$;

create or replace function reminders.cancel_needless(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  needless record;
begin
  healed := 0;
  failed := 0;
  for needless in
    select d.id, outbox.uuid_or_null(d.key) as auto_sync_id
    from (
      select j.id, j.key
      from outbox.jobs j
      where j.finished_at is null
        and j.cancel_requested_at is null
        and j.name in ('reminder_24h', 'pause_check_48h')
        and not exists (select from public.auto_syncs s where s.id::text = lower(j.key) and s.status = 'running')
      offset 0 -- the few that are left are parsed, not all that are open
    ) d
    where outbox.uuid_or_null(d.key) is not null
    order by d.id desc
    limit batch
  loop
    begin
      if reminders.cancel_unless_running(needless.auto_sync_id, array[needless.id]) then
        perform reminders.tidy_up(needless.auto_sync_id);
        healed := healed + 1;
      end if;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- True when a job of that name is open, or has seen how the auto sync stands since then. One that found it not running may
-- have looked before the change was committed.
create or replace function reminders.has_job_since(auto_sync_id uuid, name text, since timestamptz) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (
  select from outbox.jobs j
  where j.key = has_job_since.auto_sync_id::text
    and j.name = has_job_since.name
    and (
      (j.finished_at is null and j.cancel_requested_at is null)
      or (
        greatest(j.created_at, j.finished_at) >= has_job_since.since
        and j.reason is distinct from 'auto_sync_not_running'
      )
    )
);

-- Does for one auto sync what its triggers should have done at `captured_at`, as it stands now. False when that is not
-- possible now, or not wanted.
create or replace function reminders.recover(auto_sync_id uuid, captured_at timestamptz) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  sync public.auto_syncs;
  job_ids bigint[];
begin
  select s.* into sync from public.auto_syncs s where s.id = recover.auto_sync_id;
  if sync.status is distinct from 'running' then
    job_ids := array(
      select j.id
      from outbox.jobs j
      where j.key = recover.auto_sync_id::text
        and j.name in ('reminder_24h', 'pause_check_48h')
        and j.finished_at is null
    );
    if not reminders.cancel_unless_running(recover.auto_sync_id, job_ids) then
      return false;
    end if;
    perform reminders.tidy_up(recover.auto_sync_id);
    return true;
  elsif sync.last_reminder_sent_at is null then
    if reminders.has_job_since(sync.id, 'reminder_24h', recover.captured_at) then
      return true;
    elsif reminders.captured_since() is null then
      return false;
    end if;
    perform outbox.enqueue(
      name => 'reminder_24h', key => sync.id::text, payload => jsonb_build_object('autoSyncId', sync.id),
      owner_id => sync.organizer_id, scheduled_at => greatest(now(), sync.created_at + reminders.reminder_delay()),
      rerun => true
    );
    return true;
  end if;
  if not reminders.has_job_since(sync.id, 'pause_check_48h', recover.captured_at) then
    perform outbox.enqueue(
      name => 'pause_check_48h', key => sync.id::text, payload => jsonb_build_object('autoSyncId', sync.id),
      owner_id => sync.organizer_id,
      scheduled_at => (
        select recover.captured_at + coalesce(t.operator_delay, t.delay)
        from outbox.job_types t
        where t.name = 'pause_check_48h'
      ),
      rerun => true
    );
  end if;
  return true;
end $$;

-- Errors older than a day are left to a person: by then a reminder would be too late anyway.
create or replace function reminders.recover_captures(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  missed record;
begin
  healed := 0;
  failed := 0;
  for missed in
    select e.id, e.captured_at, outbox.uuid_or_null(e.key) as auto_sync_id
    from outbox.capture_errors e
    where e.healed_at is null
      and e.captured_at > now() - interval '24 hours'
      and e.job_name in ('reminder_24h', 'pause_check_48h')
      and outbox.uuid_or_null(e.key) is not null
    order by e.id desc
    limit batch
    for no key update skip locked
  loop
    begin
      if reminders.recover(missed.auto_sync_id, missed.captured_at) then
        update outbox.capture_errors e set healed_at = clock_timestamp() where e.id = missed.id;
        healed := healed + 1;
      end if;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- Only of jobs that could not do it themselves: what a person has deleted since a job recorded it stays deleted.
create or replace function reminders.record_unrecorded(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  unrecorded record;
begin
  healed := 0;
  failed := 0;
  for unrecorded in
    select distinct t.auto_sync_id
    from reminders.texts t
    join public.auto_syncs s on s.id = t.auto_sync_id
    join outbox.jobs j on j.id = t.job_id
    where t.state = 'confirmed'
      and t.settled_at > now() - interval '24 hours'
      and j.state in ('failed', 'cancelled')
      and not exists (
        select from public.auto_sync_messages m where m.auto_sync_id = t.auto_sync_id and m.provider_sid = t.reference
      )
      and not exists (
        select from outbox.jobs o where o.key = t.auto_sync_id::text and o.name = 'reminder_24h' and o.finished_at is null
      )
    limit batch
  loop
    begin
      perform reminders.follow_up(unrecorded.auto_sync_id);
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

create or replace function reminders.sweep() returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
  batch constant int := 200;
  kind text;
  part record;
  answer jsonb := '{"recovered": 0, "planned": 0, "cancelled": 0, "recorded": 0, "failed": 0, "error": null, "more": false}';
begin
  -- Held until the end of the transaction. The number is arbitrary.
  if not pg_try_advisory_xact_lock(122524661739390) then
    return null;
  end if;
  foreach kind in array array['recovered', 'planned', 'cancelled', 'recorded'] loop
    case kind
      when 'recovered' then part := reminders.recover_captures(batch);
      when 'planned' then part := reminders.plan_missing(batch);
      when 'cancelled' then part := reminders.cancel_needless(batch);
      when 'recorded' then part := reminders.record_unrecorded(batch);
    end case;
    answer := answer || jsonb_build_object(
      kind, part.healed, 'failed', (answer ->> 'failed')::int + part.failed,
      'error', coalesce(part.error, answer ->> 'error'), 'more', part.healed > 0
    );
    exit when part.healed > 0;
  end loop;
  return answer;
end $$;

grant usage on schema reminders to outbox_bridge;
revoke execute on all functions in schema reminders from public;
grant execute on function reminders.sweep() to outbox_bridge;

reset role;

-- The sweep: what the capture could not do at the time is done about a minute later. Called by the bridge.
--
--   recovered   what a capture set aside (outbox.capture_errors): planned, or cancelled when the user is gone
--   planned     a user that is not in Bubble as it stands gets a job: the capture was disabled, or it and the note about its
--               error were lost
--   cancelled   an open job whose user is gone ends
--
-- It plans nothing older than the capture or than the rows we keep, nothing that had its job, however that ended, and
-- nothing while a person has dropped or disabled the capture.
--
-- It never holds up a business write: it skips locked jobs, gives up on any other lock after 200 ms, and each call heals a
-- few rows of one kind and ends. One bad row is left for the next time and does not stop the rest; the newest come first.

set local role outbox_owner;

-- Since when users are captured; null while they are not, by a person's decision.
create or replace function bubble.captured_since() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return (
  select c.enabled_at
  from outbox.captures c
  where c.name = 'bubble.users'
    and c.enabled
    and not exists (
      select from jsonb_each_text(c.triggers) as w (event, name)
      where not exists (
        select from pg_trigger t
        where t.tgrelid = c.table_name::regclass and t.tgname = w.name and t.tgenabled in ('O', 'A')
      )
    )
);

-- A job of a change longer ago may have been pruned: that there is none says nothing.
create or replace function bubble.jobs_are_known_for() returns interval
language sql stable set search_path = pg_catalog, pg_temp
return (
  select least(coalesce(t.operator_retention, t.retention), coalesce(t.operator_failed_retention, t.failed_retention))
  from outbox.job_types t
  where t.name = 'bubble_user_sync'
);

-- True when a job of that user waits, or began since then. One that a person cancelled, or that failed, counts as had; one
-- that began before has read the user as it was.
create or replace function bubble.has_job_since(user_id uuid, since timestamptz) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (
  select from outbox.jobs j
  where j.name = 'bubble_user_sync'
    and j.key = has_job_since.user_id::text
    and (
      (j.state in ('pending', 'published') and j.cancel_requested_at is null)
      or greatest(
        j.created_at, j.started_at, case when j.state in ('cancelled', 'failed') then j.finished_at end
      ) >= has_job_since.since
    )
);

create or replace function bubble.plan(user_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.enqueue(
    name => 'bubble_user_sync', key => plan.user_id::text, payload => jsonb_build_object('userId', plan.user_id),
    owner_id => plan.user_id, serial_key => 'bubble_user:' || plan.user_id, rerun => true
  );
end $$;

create or replace function bubble.plan_missing(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  since timestamptz := greatest(bubble.captured_since(), now() - bubble.jobs_are_known_for());
  missing record;
begin
  healed := 0;
  failed := 0;
  if bubble.captured_since() is null then
    return;
  end if;
  for missing in
    select u.user_id
    from bubble.user_source u
    where u.changed_at between since and now()
      and (u.synced_at is null or u.synced_at < u.changed_at)
      and not bubble.has_job_since(u.user_id, u.changed_at)
    order by u.changed_at desc, u.user_id
    limit batch
  loop
    begin
      perform bubble.plan(missing.user_id);
      healed := healed + 1;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- Cancels these open jobs of a user that is gone. False when it is not, or one of them is locked.
create or replace function bubble.cancel_if_gone(user_id uuid, job_ids bigint[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  locked bigint[] := array(
    select j.id
    from outbox.jobs j
    where j.id = any (cancel_if_gone.job_ids) and j.finished_at is null
    order by j.id
    for no key update skip locked
  );
begin
  if exists (select from bubble.user_source u where u.user_id = cancel_if_gone.user_id) then
    return false;
  end if;
  perform outbox.cancel_jobs(ids => locked, reason => 'user_deleted');
  return not exists (
    select from outbox.jobs j
    where j.id = any (cancel_if_gone.job_ids) and j.finished_at is null and j.cancel_requested_at is null
  );
end $$;

create or replace function bubble.cancel_needless(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  needless record;
begin
  healed := 0;
  failed := 0;
  for needless in
    select d.id, d.user_id
    from (
      select j.id, outbox.uuid_or_null(j.payload ->> 'userId') as user_id
      from outbox.jobs j
      where j.name = 'bubble_user_sync' and j.finished_at is null and j.cancel_requested_at is null
    ) d
    where d.user_id is not null
      and not exists (select from bubble.user_source u where u.user_id = d.user_id)
    order by d.id desc
    limit batch
  loop
    begin
      if bubble.cancel_if_gone(needless.user_id, array[needless.id]) then
        healed := healed + 1;
      end if;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

-- Does for one user what the capture should have done. False when that is not possible now, or not wanted. A job that was
-- not needed any more copies the user as it stands: no harm.
create or replace function bubble.recover(user_id uuid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from bubble.user_source u where u.user_id = recover.user_id) then
    return bubble.cancel_if_gone(
      recover.user_id,
      array(
        select j.id
        from outbox.jobs j
        where j.name = 'bubble_user_sync' and j.key = recover.user_id::text and j.finished_at is null
      )
    );
  elsif bubble.captured_since() is null then
    return false;
  end if;
  perform bubble.plan(recover.user_id);
  return true;
end $$;

-- Errors older than a day are left to a person.
create or replace function bubble.recover_captures(batch int, out healed int, out failed int, out error text)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  missed record;
begin
  healed := 0;
  failed := 0;
  for missed in
    select e.id, outbox.uuid_or_null(e.key) as user_id
    from outbox.capture_errors e
    where e.healed_at is null
      and e.captured_at > now() - interval '24 hours'
      and e.job_name = 'bubble_user_sync'
      and outbox.uuid_or_null(e.key) is not null
    order by e.id desc
    limit batch
    for no key update skip locked
  loop
    begin
      if bubble.recover(missed.user_id) then
        update outbox.capture_errors e set healed_at = clock_timestamp() where e.id = missed.id;
        healed := healed + 1;
      end if;
    exception when others then
      failed := failed + 1;
      error := sqlerrm;
    end;
  end loop;
end $$;

create or replace function bubble.sweep() returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
  batch constant int := 200;
  kind text;
  part record;
  answer jsonb := '{"recovered": 0, "planned": 0, "cancelled": 0, "failed": 0, "error": null, "more": false}';
begin
  -- Held until the end of the transaction. The number is arbitrary.
  if not pg_try_advisory_xact_lock(122524661739391) then
    return null;
  end if;
  foreach kind in array array['recovered', 'planned', 'cancelled'] loop
    case kind
      when 'recovered' then part := bubble.recover_captures(batch);
      when 'planned' then part := bubble.plan_missing(batch);
      when 'cancelled' then part := bubble.cancel_needless(batch);
    end case;
    answer := answer || jsonb_build_object(
      kind, part.healed, 'failed', (answer ->> 'failed')::int + part.failed,
      'error', coalesce(part.error, answer ->> 'error'), 'more', part.healed > 0
    );
    exit when part.healed > 0;
  end loop;
  return answer;
end $$;

reset role;

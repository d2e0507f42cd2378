-- The way in. The view gmb.sync_queue, the API and schedules all ask for a sync here, inside their own transaction.

set local role outbox_owner;

-- Raises, naming the field, what makes no sense. The instants and numbers are bounded by what can be meant: a wait between
-- attempts doubles each time, and BullMQ tells two million priorities apart.
create or replace function gmb.assert_request(
  sync_type text,
  priority int,
  scheduled_at timestamptz,
  max_attempts int,
  metadata jsonb
) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  field text;
  rule text;
begin
  if assert_request.sync_type is null or assert_request.sync_type not in ('full', 'incremental') then
    field := 'sync_type';
    rule := 'must be full or incremental';
  elsif assert_request.priority not between -1000000 and 999999 then
    field := 'priority';
    rule := 'must be from -1000000 to 999999';
  elsif assert_request.max_attempts not between 1 and 20 then
    field := 'max_attempts';
    rule := 'must be from 1 to 20';
  elsif assert_request.scheduled_at not between '2000-01-01' and '2200-01-01' then
    field := 'scheduled_at';
    rule := 'must be an instant from 2000 to 2200';
  elsif jsonb_typeof(assert_request.metadata) <> 'object' then
    field := 'metadata';
    rule := 'must be a JSON object';
  elsif length(assert_request.metadata::text) > 16384 then
    field := 'metadata';
    rule := 'must not be longer than 16384 characters';
  else
    return;
  end if;
  raise exception '% %', field, rule using errcode = '22023', column = field;
end $$;

-- Asks for a sync of an account. A user_id that is given must be the account's own; null is a caller who may sync all. Raises
-- OB010 when there is no such account of that user, and 22023 (COLUMN: which) for a value that makes no sense.
--
-- One sync of an account is open at a time. A request for another while it waits is answered with its id, and moves it: to
-- the higher priority, the earlier instant, from incremental to full. A retry keeps its wait, or a failing account would
-- spend its attempts on impatience. While it runs, the answer is its id and nothing else.
create or replace function gmb.enqueue_sync(
  account_id uuid,
  user_id uuid,
  sync_type text,
  priority int default null,
  scheduled_at timestamptz default null,
  max_attempts int default null,
  metadata jsonb default null
) returns table (id uuid, status text, duplicate boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  account gmb.account_source;
  request record;
begin
  perform gmb.assert_request(
    sync_type => enqueue_sync.sync_type, priority => enqueue_sync.priority, scheduled_at => enqueue_sync.scheduled_at,
    max_attempts => enqueue_sync.max_attempts, metadata => enqueue_sync.metadata
  );
  select a.* into account
  from gmb.account_source a
  where a.id = enqueue_sync.account_id and (enqueue_sync.user_id is null or a.user_id = enqueue_sync.user_id);
  if not found then
    raise exception 'There is no account % of this user.', coalesce(enqueue_sync.account_id::text, 'null')
      using errcode = 'OB010', column = 'account_id',
        hint = 'select id, user_id from gmb.account_source lists the accounts of this installation.';
  end if;

  select e.id, e.is_new into request
  from outbox.enqueue(
    name => 'gmb_sync', key => account.id::text, owner_id => account.user_id,
    payload => jsonb_build_object('accountId', account.id, 'syncType', enqueue_sync.sync_type)
      || case
        when enqueue_sync.metadata is null then '{}' else jsonb_build_object('metadata', enqueue_sync.metadata)
      end,
    scheduled_at => enqueue_sync.scheduled_at, priority => enqueue_sync.priority,
    max_attempts => enqueue_sync.max_attempts
  ) e;
  if not request.is_new then
    perform gmb.bring_forward(
      job_id => request.id, sync_type => enqueue_sync.sync_type, priority => enqueue_sync.priority,
      due => enqueue_sync.scheduled_at
    );
  end if;
  return query
    select q.id, q.status, not request.is_new from gmb.sync_queue q where q.id = outbox.job_uuid(request.id);
end $$;

-- What another request for a waiting sync makes of it. The row is locked already, by outbox.enqueue: no worker can claim it
-- before we commit. A new priority or instant begins a new life of the row, as for a person who reschedules it, because
-- what BullMQ and the bridge have of it is made for the old one.
create or replace function gmb.bring_forward(job_id bigint, sync_type text, priority int, due timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job outbox.jobs;
  kind outbox.job_types;
  higher int;
  earlier timestamptz;
begin
  select j.* into job from outbox.jobs j where j.id = bring_forward.job_id;
  if job.cancel_requested_at is not null then
    -- It is about to end; the run that is enqueued then is what was asked for.
    update outbox.jobs j
    set payload = case when bring_forward.sync_type = 'full' then j.payload || '{"syncType": "full"}' else j.payload end,
        priority = greatest(j.priority, bring_forward.priority)
    where j.id = job.id and j.rerun;
    return;
  elsif job.state not in ('pending', 'published') then
    return;
  end if;
  select t.* into kind from outbox.job_types t where t.name = job.name;
  higher := greatest(job.priority, coalesce(bring_forward.priority, kind.priority));
  earlier := least(
    job.scheduled_at,
    case
      when job.started_at is null
      then coalesce(bring_forward.due, now() + coalesce(kind.operator_delay, kind.delay))
    end
  );

  if bring_forward.sync_type = 'full' then
    update outbox.jobs j
    set payload = j.payload || '{"syncType": "full"}'
    where j.id = job.id and j.payload ->> 'syncType' <> 'full';
  end if;
  if higher > job.priority or earlier < job.scheduled_at then
    update outbox.jobs j set priority = higher where j.id = job.id;
    job.priority := higher;
    perform outbox.begin_again(job, earlier, job.attempt, job.holds_key);
  end if;
end $$;

-- Asks for a sync of every active account that need not be connected again, each at an instant of its own within `spread`,
-- always the same part of it: a quota is used evenly. An account whose sync is open keeps that one. Returns how many were
-- asked for. For a schedule of the host's (pg_cron, or any other) to call.
create or replace function gmb.schedule_syncs(
  sync_type text default 'incremental',
  spread interval default '1 hour',
  priority int default 0
) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  asked int;
begin
  perform gmb.assert_request(
    sync_type => schedule_syncs.sync_type, priority => schedule_syncs.priority,
    scheduled_at => now() + schedule_syncs.spread, max_attempts => null, metadata => null
  );
  with due as (
    select
      a.id, a.user_id,
      now() + schedule_syncs.spread * ((hashtextextended(a.id::text, 0) & 1048575) / 1048576.0)::float8 as at
    from gmb.account_source a
    where a.is_active and not a.needs_reconnection
  )
  select count(*) filter (where e.is_new)::int into asked
  from outbox.enqueue_many(
    name => 'gmb_sync',
    rows => (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'key', d.id, 'owner_id', d.user_id, 'scheduled_at', d.at, 'priority', schedule_syncs.priority,
            'payload', jsonb_build_object('accountId', d.id, 'syncType', schedule_syncs.sync_type)
          )
        ),
        '[]'
      )
      from due d
    )
  ) e;
  return asked;
end $$;

reset role;

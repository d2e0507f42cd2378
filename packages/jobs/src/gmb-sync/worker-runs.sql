-- gmb.sync_worker_runs: who worked when. What workers did is worked out from the attempts, which are written in the
-- transaction that ends a run: nothing is lost when a worker or a bridge dies, and doing it again changes nothing.

set local role outbox_owner;

-- Works out the runs of workers since `since`: one row per worker and minute in which it began syncs. It is running as long
-- as one of them is; failed, once one of them was interrupted or its lease is over: nobody hears the worker's heart any
-- more. Returns how many rows changed.
create or replace function gmb.count_worker_runs(since timestamptz) returns int
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with begun as (
    select j.id, j.payload, j.state, j.run, j.attempt, j.locked_by, j.locked_until, j.started_at
    from outbox.jobs j
    where j.name = 'gmb_sync' and j.finished_at is null
    union all
    select j.id, j.payload, j.state, j.run, j.attempt, j.locked_by, j.locked_until, j.started_at
    from outbox.jobs j
    where j.name = 'gmb_sync' and j.finished_at >= date_trunc('minute', count_worker_runs.since)
  ),
  recent as (
    select b.* from begun b where b.started_at >= date_trunc('minute', count_worker_runs.since)
  ),
  runs as (
    select
      r.id, r.payload, a.worker, a.started_at, a.finished_at, a.outcome, coalesce(a.error, a.reason) as error,
      false as is_open
    from recent r
    join outbox.attempts a on a.job_id = r.id
    union all
    select
      r.id, r.payload, r.locked_by, r.started_at, null, case when r.locked_until < clock_timestamp() then 'interrupted' end,
      null, r.locked_until >= clock_timestamp()
    from recent r
    where r.state = 'active'
  ),
  counted as (
    select
      r.worker, date_trunc('minute', r.started_at) as minute, count(*)::int as picked,
      count(*) filter (where r.outcome in ('completed', 'skipped'))::int as succeeded,
      count(*) filter (where r.outcome in ('retried', 'failed'))::int as failed,
      count(*) filter (where r.outcome = 'interrupted')::int as interrupted,
      bool_or(r.is_open) as is_open, min(r.started_at) as started_at,
      coalesce(max(r.finished_at), min(r.started_at)) as finished_at,
      jsonb_agg(
        jsonb_strip_nulls(
          jsonb_build_object(
            'job_id', outbox.job_uuid(r.id), 'account_id', r.payload ->> 'accountId',
            'sync_type', r.payload ->> 'syncType', 'outcome', coalesce(r.outcome, 'running'), 'error', r.error,
            'duration_ms', round(extract(epoch from r.finished_at - r.started_at) * 1000)
          )
        )
        order by r.started_at, r.id
      ) as jobs
    from runs r
    where r.worker is not null and r.started_at >= date_trunc('minute', count_worker_runs.since)
    group by r.worker, date_trunc('minute', r.started_at)
  ),
  written as (
    insert into gmb.sync_worker_runs as w (
      status, jobs_picked, jobs_processed, jobs_succeeded, jobs_failed, notes, metadata, started_at, finished_at, worker,
      minute
    )
    select
      case when c.interrupted > 0 then 'failed' when c.is_open then 'running' else 'completed' end,
      c.picked, c.succeeded + c.failed, c.succeeded, c.failed,
      case when c.interrupted > 0 then 'Heartbeat lost: ' || c.interrupted || ' of its syncs were interrupted.' end,
      jsonb_build_object('worker', c.worker, 'jobs', c.jobs), c.started_at,
      case when c.interrupted > 0 or not c.is_open then c.finished_at end, c.worker, c.minute
    from counted c
    order by c.worker, c.minute
    on conflict (worker, minute) do update
    set status = excluded.status, jobs_picked = excluded.jobs_picked, jobs_processed = excluded.jobs_processed,
        jobs_succeeded = excluded.jobs_succeeded, jobs_failed = excluded.jobs_failed, notes = excluded.notes,
        metadata = excluded.metadata, finished_at = excluded.finished_at
    where w.metadata <> excluded.metadata or w.status <> excluded.status
    returning 1
  )
  select count(*)::int from written;
end;

-- Keeps the table up to date: counts what workers did since the oldest run that is not over, or the newest that is (at most
-- a day), gives up HTTP triggers that never said how they ended, and forgets what is older than thirty days.
create or replace function gmb.keep_worker_runs() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform gmb.count_worker_runs(
    since => greatest(
      now() - interval '1 day',
      least(
        (select min(w.minute) from gmb.sync_worker_runs w where w.status = 'running' and w.minute is not null),
        coalesce((select max(w.minute) from gmb.sync_worker_runs w) - interval '1 minute', '-infinity')
      )
    )
  );
  update gmb.sync_worker_runs w
  set status = 'failed', finished_at = clock_timestamp(), notes = 'Heartbeat lost: it never said how it ended.'
  where w.status = 'running'
    and w.started_at < now() - case when w.worker is null then interval '5 minutes' else interval '1 day' end;
  delete from gmb.sync_worker_runs w
  where w.id in (
    select o.id
    from gmb.sync_worker_runs o
    where o.started_at < now() - interval '30 days' and o.status <> 'running'
    order by o.started_at
    limit 1000
  );
end $$;

-- An HTTP trigger begins. Said twice with the same id, it is one run.
create or replace function gmb.begin_worker_run(run_id uuid default gen_random_uuid()) returns uuid
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  insert into gmb.sync_worker_runs (id) values (begin_worker_run.run_id) on conflict (id) do nothing;
  select begin_worker_run.run_id;
end;

-- An HTTP trigger has ended. Raises OB002 when it never began.
create or replace function gmb.finish_worker_run(
  run_id uuid,
  picked int,
  processed int,
  succeeded int,
  failed int,
  notes text default null,
  metadata jsonb default '{}'
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update gmb.sync_worker_runs w
  set status = 'completed', jobs_picked = finish_worker_run.picked, jobs_processed = finish_worker_run.processed,
      jobs_succeeded = finish_worker_run.succeeded, jobs_failed = finish_worker_run.failed,
      notes = finish_worker_run.notes, metadata = coalesce(finish_worker_run.metadata, '{}'),
      finished_at = clock_timestamp()
  where w.id = finish_worker_run.run_id and w.worker is null;
  if not found then
    raise exception 'There is no worker run %.', finish_worker_run.run_id
      using errcode = 'OB002', hint = 'gmb.begin_worker_run() begins one.';
  end if;
end $$;

reset role;

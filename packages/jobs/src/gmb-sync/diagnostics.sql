-- What people look at: one person's queue, and how the whole of it does.

set local role outbox_owner;

-- The syncs of one user, as far as they are kept: how many of each status, and the newest 50.
create or replace function gmb.user_queue(user_id uuid) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
  with mine as (
    select q.* from gmb.sync_queue q where q.user_id = user_queue.user_id
  ),
  newest as (
    select m.* from mine m order by m.created_at desc, m.id desc limit 50
  )
  select jsonb_build_object(
    'stats', (
      select jsonb_build_object(
        'total', count(*),
        'pending', count(*) filter (where m.status = 'pending'),
        'processing', count(*) filter (where m.status = 'processing'),
        'succeeded', count(*) filter (where m.status = 'succeeded'),
        'failed', count(*) filter (where m.status = 'failed')
      )
      from mine m
    ),
    'jobs', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', n.id, 'account_id', n.account_id, 'sync_type', n.sync_type, 'status', n.status,
            'attempts', n.attempts, 'max_attempts', n.max_attempts, 'created_at', n.created_at,
            'scheduled_at', n.scheduled_at
          )
          order by n.created_at desc, n.id desc
        ),
        '[]'
      )
      from newest n
    )
  );
end;

-- One alert: whether it would fire, and what it goes by.
create or replace function gmb.alert(name text, firing boolean, value numeric, threshold numeric, message text) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
return jsonb_build_object(
  'name', name, 'firing', coalesce(firing, false), 'value', value, 'threshold', threshold, 'message', message
);

-- How the queue does: depth, age, latency of each stage, failures, what is stuck, what differs between rows and BullMQ, open
-- breakers and limits, worker runs, and which alerts would fire:
--
--   high_failure_rate   of at least 5 syncs that ended in the last hour more than 20 % failed
--   stale_jobs          a sync is in the same attempt for more than 15 minutes
--   queue_backlog       more than 50 pending syncs are due; those that wait for their instant are no backlog
--   worker_failures     a worker run of the last hour failed
create or replace function gmb.queue_diagnostics() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  depth record;
  recent record;
  stale record;
  runs record;
  rate numeric;
begin
  select
    count(*) filter (where q.status = 'pending') as pending,
    count(*) filter (where q.status = 'processing') as processing,
    count(*) filter (where q.status = 'succeeded') as succeeded,
    count(*) filter (where q.status = 'failed') as failed,
    count(*) filter (where q.status = 'pending' and coalesce(q.scheduled_at, q.created_at) <= now()) as due,
    extract(
      epoch from now() - min(coalesce(q.scheduled_at, q.created_at)) filter (where q.status = 'pending')
    )::float8 as oldest_s
  into depth
  from gmb.sync_queue q;

  select
    count(*) as finished, count(*) filter (where j.state = 'failed') as failed,
    percentile_cont(array[0.5, 0.95]) within group (
      order by extract(epoch from j.published_at - j.due_at)::float8
    ) as to_published,
    percentile_cont(array[0.5, 0.95]) within group (
      order by extract(epoch from j.started_at - j.due_at)::float8
    ) as to_started,
    percentile_cont(array[0.5, 0.95]) within group (
      order by extract(epoch from j.finished_at - j.started_at)::float8
    ) as running
  into recent
  from outbox.jobs j
  where j.name = 'gmb_sync'
    and j.finished_at > now() - interval '1 hour'
    and j.state in ('completed', 'skipped', 'failed');
  rate := round(100.0 * recent.failed / nullif(recent.finished, 0), 2);

  select
    count(*) as count,
    coalesce(
      jsonb_agg(jsonb_build_object('id', s.id, 'account_id', s.account_id, 'started_at', s.started_at)), '[]'
    ) as jobs
  into stale
  from (
    select q.id, q.account_id, q.started_at
    from gmb.sync_queue q
    where q.status = 'processing' and q.started_at < now() - interval '15 minutes'
    order by q.started_at
    limit 50
  ) s;

  select
    count(*) filter (where w.status = 'running') as running,
    count(*) filter (where w.status = 'completed') as completed,
    count(*) filter (where w.status = 'failed') as failed
  into runs
  from gmb.sync_worker_runs w
  where w.started_at > now() - interval '1 hour';

  return jsonb_build_object(
    'generated_at', now(),
    'depth', jsonb_build_object(
      'pending', depth.pending, 'processing', depth.processing, 'succeeded', depth.succeeded, 'failed', depth.failed
    ),
    'pending', jsonb_build_object(
      'due', depth.due, 'scheduled', depth.pending - depth.due,
      'oldest_due_age_seconds', case when depth.due > 0 then round(depth.oldest_s::numeric, 3) end
    ),
    'last_hour', jsonb_build_object(
      'finished', recent.finished, 'failed', recent.failed, 'failure_rate', rate,
      'latency_seconds', jsonb_build_object(
        'due_to_published', gmb.percentiles(recent.to_published),
        'due_to_started', gmb.percentiles(recent.to_started),
        'started_to_finished', gmb.percentiles(recent.running)
      )
    ),
    'stale', jsonb_build_object('count', stale.count, 'jobs', stale.jobs),
    'drift', (select coalesce(sum(r.drift), 0) from outbox.repairs r where r.queue = 'gmb-sync'),
    'breakers', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'tenant', nullif(b.tenant, ''), 'state', b.state, 'opened_at', b.opened_at, 'probe_at', b.probe_at,
            'limited_until', b.limited_until, 'last_error', b.last_error
          )
          order by b.tenant
        ),
        '[]'
      )
      from outbox.breakers b
      where b.provider = 'google' and (b.state <> 'closed' or b.limited_until > now())
    ),
    'worker_runs', jsonb_build_object(
      'last_hour', jsonb_build_object('running', runs.running, 'completed', runs.completed, 'failed', runs.failed),
      'recent', (
        select coalesce(
          jsonb_agg(
            to_jsonb(w) - array['worker', 'minute', 'created_at', 'metadata'] order by w.started_at desc
          ),
          '[]'
        )
        from (select r.* from gmb.sync_worker_runs r order by r.started_at desc limit 10) w
      )
    ),
    'alerts', jsonb_build_array(
      gmb.alert(
        'high_failure_rate', recent.finished >= 5 and rate > 20, rate, 20,
        'More than 20 % of the syncs that ended in the last hour failed (at least 5 ended).'
      ),
      gmb.alert(
        'stale_jobs', stale.count > 0, stale.count, 0, 'Syncs have been processing for more than 15 minutes.'
      ),
      gmb.alert('queue_backlog', depth.due > 50, depth.due, 50, 'More than 50 pending syncs are due.'),
      gmb.alert('worker_failures', runs.failed > 0, runs.failed, 0, 'Worker runs failed in the last hour.')
    )
  );
end $$;

-- p50 and p95, rounded to milliseconds.
create or replace function gmb.percentiles(of float8[]) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
return jsonb_build_object('p50', round(of[1]::numeric, 3), 'p95', round(of[2]::numeric, 3));

reset role;

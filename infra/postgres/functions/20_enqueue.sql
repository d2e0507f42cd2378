-- The one way in. Triggers, the API, schedules and follow-ups all add jobs here, inside their own transaction.

-- Earlier signatures, from before "rerun".
drop function if exists outbox.enqueue(text, text, jsonb, uuid, timestamptz, int, int, text, text, text);
drop function if exists outbox.enqueue_many(text, jsonb);

-- Adds one job, or finds the one it duplicates. Call it with named arguments; what is left out comes from
-- outbox.job_types. Returns the row's id and whether it is new.
--
-- A duplicate is not simply ignored. A worker might claim the waiting row, read the world as it was, and only then would
-- our change commit: the change would never be acted on. So the row is locked until our transaction ends (no worker can
-- claim it before), and if it turns out to be claimed already, it no longer holds the key and we insert after all.
-- Of a job that is unique while it is open, the running row still holds the key. With rerun => true (what a trigger says:
-- the world has changed) it is run once more when it has ended; without (a person's request) its id is the answer. One that
-- is about to end because it was cancelled, running or waiting to find out about its call, is run once more for either.
-- The caller's idempotency key is stronger: the same key gives the same row, whatever became of it, also when that row
-- was somebody else's to begin with.
create or replace function outbox.enqueue(
  name text,
  key text default null,
  payload jsonb default '{}',
  owner_id uuid default null,
  scheduled_at timestamptz default null,
  priority int default null,
  max_attempts int default null,
  idempotency_key text default null,
  serial_key text default null,
  traceparent text default null,
  rerun boolean default false,
  out id bigint,
  out is_new boolean
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  kind outbox.job_types;
  due timestamptz;
  runs_again boolean;
begin
  select t.* into kind from outbox.job_types t where t.name = enqueue.name;
  if not found then
    raise exception 'There is no job named "%".', enqueue.name
      using errcode = 'OB001', hint = 'select name from outbox.job_types lists the jobs of this installation.';
  end if;
  due := coalesce(enqueue.scheduled_at, now() + coalesce(kind.operator_delay, kind.delay));

  loop
    if enqueue.idempotency_key is not null then
      select k.job_id into enqueue.id
      from outbox.idempotency_keys k
      where k.name = enqueue.name
        and k.owner_id is not distinct from enqueue.owner_id
        and k.idempotency_key = enqueue.idempotency_key;
      if found then
        is_new := false;
        return;
      end if;
    end if;

    with new_job as (
      insert into outbox.jobs (
        name, queue, key, holds_key, serial_key, owner_id, payload, scheduled_at, due_at, priority, max_attempts,
        idempotency_key, traceparent, provider_tenant
      )
      values (
        kind.name, kind.queue, enqueue.key, kind.unique_mode <> 'none' and enqueue.key is not null, enqueue.serial_key,
        enqueue.owner_id, enqueue.payload, due, due, coalesce(enqueue.priority, kind.priority),
        coalesce(enqueue.max_attempts, kind.operator_max_attempts, kind.max_attempts), enqueue.idempotency_key,
        enqueue.traceparent, enqueue.payload ->> kind.tenant_field
      )
      on conflict do nothing
      returning jobs.id, jobs.generation, jobs.priority, jobs.scheduled_at
    ),
    made_ready as (
      insert into outbox.ready (job_id, generation, priority, scheduled_at, far, serial_key)
      select
        n.id, n.generation, n.priority, n.scheduled_at, n.scheduled_at > now() + m.publish_window, enqueue.serial_key
      from new_job n join outbox.meta m on m.only_row
    )
    select n.id, true into enqueue.id, enqueue.is_new from new_job n;
    if found then return; end if;

    is_new := false;
    if enqueue.idempotency_key is not null then
      select j.id into enqueue.id
      from outbox.jobs j
      where j.name = enqueue.name
        and j.owner_id is not distinct from enqueue.owner_id
        and j.idempotency_key = enqueue.idempotency_key;
      if found then return; end if;
    end if;

    select j.id, j.cancel_requested_at is not null or (j.state = 'active' and enqueue.rerun)
    into enqueue.id, runs_again
    from outbox.jobs j
    where j.name = enqueue.name and j.key = enqueue.key and j.holds_key
    for no key update;
    if found then
      if runs_again then
        update outbox.jobs j set rerun = true where j.id = enqueue.id;
      end if;
      if enqueue.idempotency_key is not null then
        insert into outbox.idempotency_keys (name, owner_id, idempotency_key, job_id)
        values (enqueue.name, enqueue.owner_id, enqueue.idempotency_key, enqueue.id)
        on conflict do nothing;
      end if;
      return;
    end if;
    -- The holder let go of the key between the two statements: the key is free, insert again.
  end loop;
end $$;

-- The set-based twin: one row of the result per row of `rows`, a JSON array of objects with the arguments of enqueue()
-- (key, payload, owner_id, scheduled_at, priority, max_attempts, idempotency_key, serial_key, traceparent).
-- Of several rows with one key the last counts.
create or replace function outbox.enqueue_many(name text, rows jsonb, rerun boolean default false)
returns table (key text, id bigint, is_new boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  wanted outbox.wanted_job[] := array(select w from jsonb_populate_recordset(null::outbox.wanted_job, rows) w);
  added outbox.added_job[] := '{}';
begin
  -- When one has an idempotency key all are looked at one by one: it may duplicate a row in two ways.
  if not rows @? '$[*] ? (@.idempotency_key != null)' then
    added := outbox.add_jobs(enqueue_many.name, wanted);
    return query select a.key, a.id, true from unnest(added) a;
  end if;
  if cardinality(added) < cardinality(wanted) or cardinality(wanted) = 0 then -- an unknown name is refused in any case
    return query select d.* from outbox.meet_duplicates(enqueue_many.name, wanted, added, enqueue_many.rerun) d;
  end if;
end $$;

-- Adds what is new by one statement, which is all that most calls do, and returns it; none of `wanted` has an idempotency
-- key. Rows are taken in the order of their keys, so that two callers cannot deadlock, and of several with one key the last
-- comes first: the others meet it in the index. The plan is made once in a session: it is the same for one row and for many.
create or replace function outbox.add_jobs(name text, wanted outbox.wanted_job[]) returns outbox.added_job[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  added outbox.added_job[];
begin
  with new_jobs as (
    insert into outbox.jobs (
      name, queue, key, holds_key, serial_key, owner_id, payload, scheduled_at, due_at, priority, max_attempts,
      traceparent, provider_tenant
    )
    select
      t.name, t.queue, w.key, t.unique_mode <> 'none' and w.key is not null, w.serial_key, w.owner_id,
      coalesce(w.payload, '{}'), d.due, d.due, coalesce(w.priority, t.priority),
      coalesce(w.max_attempts, t.operator_max_attempts, t.max_attempts), w.traceparent, w.payload ->> t.tenant_field
    from outbox.job_types t
    cross join unnest(add_jobs.wanted) with ordinality as w
    cross join lateral (select coalesce(w.scheduled_at, now() + coalesce(t.operator_delay, t.delay)) as due) d
    where t.name = add_jobs.name
    order by w.key, case when w.key is null or t.unique_mode = 'none' then w.ordinality else -w.ordinality end
    on conflict do nothing
    returning jobs.id, jobs.key, jobs.generation, jobs.priority, jobs.scheduled_at, jobs.serial_key
  ),
  made_ready as (
    insert into outbox.ready (job_id, generation, priority, scheduled_at, far, serial_key)
    select n.id, n.generation, n.priority, n.scheduled_at, n.scheduled_at > now() + m.publish_window, n.serial_key
    from new_jobs n join outbox.meta m on m.only_row
  )
  select array_agg(row(n.key, n.id)::outbox.added_job) into added from new_jobs n;
  return coalesce(added, '{}');
end $$;

-- What add_jobs has not added, one by one: the rows that duplicate another.
create or replace function outbox.meet_duplicates(
  name text,
  wanted outbox.wanted_job[],
  added outbox.added_job[],
  rerun boolean
)
returns table (key text, id bigint, is_new boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform from outbox.job_types t where t.name = meet_duplicates.name;
  if not found then
    raise exception 'There is no job named "%".', meet_duplicates.name
      using errcode = 'OB001', hint = 'select name from outbox.job_types lists the jobs of this installation.';
  end if;

  return query
  select o.key, e.id, e.is_new
  from (
    select distinct on (r.key, r.alone) r.*
    from (
      select w.*, case when w.key is null or t.unique_mode = 'none' then w.ordinality end as alone
      from outbox.job_types t
      cross join unnest(meet_duplicates.wanted) with ordinality as w
      where t.name = meet_duplicates.name
    ) r
    order by r.key, r.alone, r.ordinality desc
  ) o
  cross join lateral outbox.enqueue(
    name => meet_duplicates.name, key => o.key, payload => coalesce(o.payload, '{}'), owner_id => o.owner_id,
    scheduled_at => o.scheduled_at, priority => o.priority, max_attempts => o.max_attempts,
    idempotency_key => o.idempotency_key, serial_key => o.serial_key, traceparent => o.traceparent,
    rerun => meet_duplicates.rerun
  ) e
  -- With nothing added all of them are looked at; otherwise those that stand alone are in, and those with a key that is.
  where meet_duplicates.added = '{}'
    or o.alone is null and not exists (select from unnest(meet_duplicates.added) a where a.key = o.key);
end $$;

-- The gate to a provider: whether a job may call it now. Kept here, so that all workers obey one breaker and one limit, also
-- after Redis has lost everything. In outbox.breakers a provider has one row for itself (tenant '') and one for each tenant
-- that was in trouble.
--
--            threshold failures in a row               probe_at is past: one job is let through
--   closed ───────────────────────────▶ open ────────────────────────────────────▶ half_open
--      ▲                                  ▲                                           │ │
--      │                                  └─────────── it found it unavailable ───────┘ │
--      └───────────────────────────────── the provider answered ────────────────────────┘
--
-- What counts is how a run ends: it found the provider unavailable, or the provider answered it (a refusal is an answer, 429
-- too). Where there are tenants, the breaker of the whole provider counts tenants instead of failures, each once, and none
-- whose own breaker is open already: a few broken accounts, however often they are tried, do not stop the others.
--
-- Rows are locked in order of (provider, tenant), '' first, so that two runs that end at the same time take turns.

-- Whether a row may be claimed: blocked_until is null when it may. probing tells that it is let through to find out whether
-- the provider is back. Never waits: what somebody else is changing right now is asked again in a second. Part of the
-- claim's transaction: a crash undoes it; when the probing worker dies, another job probes from probe_at on.
create or replace function outbox.pass_gate(
  job_id bigint, provider text, tenant text, out blocked_until timestamptz, out reason text, out probing boolean
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  moment timestamptz := clock_timestamp();
  gate outbox.breakers;
  away int := 0;
  taken int;
begin
  probing := false;
  perform from outbox.providers p where p.name = pass_gate.provider and p.paused_at is not null;
  if found then
    blocked_until := moment + interval '30 s' * (1 + random());
    reason := 'provider_paused';
    return;
  end if;

  -- Most are blocked, and told so without a lock. Jitter only adds: they do not all come back in the same instant.
  for gate in
    select b.*
    from outbox.breakers b
    where b.provider = pass_gate.provider
      and b.tenant in ('', pass_gate.tenant)
      and (b.state <> 'closed' or b.limited_until > moment)
  loop
    if gate.state <> 'closed' then
      away := away + 1;
      if outbox.probe_from(gate, pass_gate.tenant) > moment and gate.probe_job is distinct from pass_gate.job_id then
        blocked_until := greatest(
          blocked_until, outbox.blocked_until(gate, moment, pass_gate.tenant) + random() * interval '2 s'
        );
        reason := 'breaker_open';
      end if;
    end if;
    if gate.limited_until > moment then
      blocked_until := greatest(blocked_until, gate.limited_until + random() * interval '1 s');
      reason := coalesce(reason, 'rate_limited');
    end if;
  end loop;
  if blocked_until is not null or away = 0 then return; end if;

  -- A probe is due. Who gets only some of the breakers in the way is back in a second, and still the probe of those.
  update outbox.breakers b
  set state = 'half_open', probe_job = pass_gate.job_id, probe_at = moment + interval '60 s', updated_at = moment
  from (
    select d.provider, d.tenant
    from outbox.breakers d
    where d.provider = pass_gate.provider
      and d.tenant in ('', pass_gate.tenant)
      and d.state <> 'closed'
      and (outbox.probe_from(d, pass_gate.tenant) <= moment or d.probe_job = pass_gate.job_id)
    order by d.tenant
    for update skip locked
  ) due
  where b.provider = due.provider and b.tenant = due.tenant;
  get diagnostics taken = row_count;
  if taken < away then
    blocked_until := moment + interval '1 s';
    reason := 'breaker_open';
  else
    probing := true;
  end if;
end $$;

-- From when on a job of this tenant may probe. Tenants that have failed themselves come a little later: an account that is
-- broken would find the whole provider away for ever.
create or replace function outbox.probe_from(breaker outbox.breakers, tenant text) returns timestamptz
language sql immutable set search_path = pg_catalog, pg_temp
return breaker.probe_at + case when tenant = any (breaker.failed_tenants) then interval '10 s' else interval '0' end;

-- Until when a breaker that is not closed keeps others away. Of a probe one hears soon: of the one under way, or of the one
-- that another tenant is free to make.
drop function if exists outbox.blocked_until(outbox.breakers, timestamptz);
create or replace function outbox.blocked_until(breaker outbox.breakers, moment timestamptz, tenant text)
returns timestamptz
language sql immutable set search_path = pg_catalog, pg_temp
return case
  when breaker.state = 'closed' then null
  when breaker.state = 'half_open' or breaker.probe_at <= moment
  then least(outbox.probe_from(breaker, tenant), moment + interval '5 s')
  else breaker.probe_at
end;

-- A run of this job found the provider unavailable. Returns until when nobody calls it, or null while people still do: then
-- the failure costs its attempt, like any. When a breaker opens, the attempts of its streak are given back, and the run
-- that opened it (or ended after that) spends none. tenant is null of a provider that knows one tenant only;
-- spends_attempt is false of a run that is repeated in any case, which has nothing to be given back.
drop function if exists outbox.note_provider_failure(text, text, bigint, text);
create or replace function outbox.note_provider_failure(
  provider text, tenant text, job_id bigint, error text, spends_attempt boolean default true
) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  moment timestamptz := clock_timestamp();
  limits outbox.providers;
  until timestamptz;
begin
  select p.* into limits from outbox.providers p where p.name = note_provider_failure.provider;
  insert into outbox.breakers (provider, tenant)
  select note_provider_failure.provider, t.name
  from unnest(array['', note_provider_failure.tenant]) as t (name)
  where t.name is not null
  order by t.name
  on conflict do nothing;
  perform from outbox.breakers b
  where b.provider = note_provider_failure.provider and b.tenant in ('', note_provider_failure.tenant)
  order by b.tenant
  for update;

  update outbox.breakers b
  set consecutive_failures = b.consecutive_failures + 1, last_error = note_provider_failure.error, updated_at = moment,
      failed_tenants = case
        when b.tenant <> '' or note_provider_failure.tenant is null
          or note_provider_failure.tenant = any (b.failed_tenants) then b.failed_tenants
        else b.failed_tenants || note_provider_failure.tenant
      end
  where b.provider = note_provider_failure.provider
    and (
      b.tenant = note_provider_failure.tenant
      or b.tenant = '' and (b.state <> 'closed' or note_provider_failure.tenant is null or not exists (
        select from outbox.breakers t
        where t.provider = b.provider and t.tenant = note_provider_failure.tenant and t.state <> 'closed'
      ))
    );

  update outbox.breakers b
  set state = 'open', opened_at = moment, probe_at = moment + limits.probe_after
  where b.provider = note_provider_failure.provider
    and b.tenant in ('', note_provider_failure.tenant)
    and b.state = 'closed'
    and limits.breaker_threshold <= case
      when b.tenant <> '' or note_provider_failure.tenant is null then b.consecutive_failures
      else cardinality(b.failed_tenants)
    end;

  update outbox.breakers b
  set state = 'open', probe_job = null,
      probe_at = moment + least(limits.longest_probe_wait, greatest(limits.probe_after, (moment - b.opened_at) / 3))
  where b.provider = note_provider_failure.provider
    and b.tenant in ('', note_provider_failure.tenant)
    and b.state = 'half_open'
    and b.probe_job = note_provider_failure.job_id;

  select max(outbox.blocked_until(b, moment, note_provider_failure.tenant)) into until
  from outbox.breakers b
  where b.provider = note_provider_failure.provider and b.tenant in ('', note_provider_failure.tenant);
  if until is null and note_provider_failure.spends_attempt then
    update outbox.breakers b
    set failed_jobs = b.failed_jobs || note_provider_failure.job_id
    where b.provider = note_provider_failure.provider and b.tenant = coalesce(note_provider_failure.tenant, '');
  elsif until is not null then
    perform outbox.give_attempts_back(note_provider_failure.provider, note_provider_failure.tenant);
  end if;
  return until;
end $$;

-- Takes back the attempts that a streak has cost before its breaker opened: of the tenant, and of all tenants when the
-- breaker of the whole provider is open. Those that cannot be taken back yet are kept by the breaker that is open.
create or replace function outbox.give_attempts_back(provider text, tenant text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  is_whole boolean := exists (
    select from outbox.breakers w
    where w.provider = give_attempts_back.provider and w.tenant = '' and w.state <> 'closed'
  );
  holder text := case when is_whole then '' else coalesce(give_attempts_back.tenant, '') end;
  spent bigint[] := '{}';
  streak outbox.breakers;
begin
  for streak in
    select b.*
    from outbox.breakers b
    where b.provider = give_attempts_back.provider and b.failed_jobs <> '{}' and (is_whole or b.tenant = holder)
    order by b.tenant
    for update
  loop
    spent := spent || streak.failed_jobs;
    update outbox.breakers b set failed_jobs = '{}' where b.provider = streak.provider and b.tenant = streak.tenant;
  end loop;
  if spent = '{}' then return; end if;
  update outbox.breakers b
  set failed_jobs = outbox.take_attempts_off(spent)
  where b.provider = give_attempts_back.provider and b.tenant = holder;
end $$;

-- One attempt less for each time a job is named. Returns those that have to wait: somebody has them locked right now, or
-- their run has failed but is not written down yet, as when several fail in the same instant. A run that is active has
-- one attempt at least, which is taken off when it is interrupted or handed back. Jobs that have ended keep theirs.
create or replace function outbox.take_attempts_off(job_ids bigint[]) returns bigint[]
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  with spent as (
    select n.id, count(*)::int as attempts from unnest(take_attempts_off.job_ids) as n (id) group by n.id
  ),
  open as (
    select j.id, s.attempts
    from outbox.jobs j
    join spent s on s.id = j.id
    where j.finished_at is null and j.attempt - s.attempts >= (j.state = 'active')::int
    order by j.id
    for no key update of j skip locked
  ),
  given as (
    update outbox.jobs j set attempt = j.attempt - o.attempts from open o where j.id = o.id returning j.id
  )
  select coalesce(array_agg(n.id), '{}')
  from unnest(take_attempts_off.job_ids) as n (id)
  join outbox.jobs j on j.id = n.id
  where j.finished_at is null and n.id not in (select g.id from given g);
end;

-- Providers have answered runs of these tenants (null: it knows one only): their streaks are over, and breakers whose probe
-- was under way close; what they still have to give back is given back. One that is open waits for its probe: this answer
-- may be to a question from before.
create or replace function outbox.note_provider_answers(providers text[], tenants text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  gate outbox.breakers;
begin
  for gate in
    select b.*
    from outbox.breakers b
    where b.state <> 'open'
      and (b.state = 'half_open' or b.consecutive_failures > 0)
      and exists (
        select from unnest(note_provider_answers.providers, note_provider_answers.tenants) as a (provider, tenant)
        where a.provider = b.provider and b.tenant in ('', a.tenant)
      )
    order by b.provider, b.tenant
    for update
  loop
    if gate.state = 'half_open' then perform outbox.take_attempts_off(gate.failed_jobs); end if;
    update outbox.breakers b
    set state = 'closed', consecutive_failures = 0, failed_jobs = '{}', failed_tenants = '{}', opened_at = null,
        probe_at = null, probe_job = null, updated_at = clock_timestamp()
    where b.provider = gate.provider and b.tenant = gate.tenant;
  end loop;
end $$;

-- The probing run ended without calling anybody: the next one probes, at once.
create or replace function outbox.release_probe(job_id bigint) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  update outbox.breakers b
  set state = 'open', probe_job = null, probe_at = clock_timestamp(), updated_at = clock_timestamp()
  where b.probe_job = release_probe.job_id and b.state = 'half_open';
end;

-- The provider asked all callers (tenant null), or those of one tenant, to wait for so many milliseconds.
create or replace function outbox.note_provider_limit(provider text, tenant text, wait_ms float8) returns void
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
  insert into outbox.breakers as b (provider, tenant, limited_until)
  values (
    note_provider_limit.provider, coalesce(note_provider_limit.tenant, ''),
    clock_timestamp() + note_provider_limit.wait_ms * interval '1 ms'
  )
  on conflict (provider, tenant) do update
  set limited_until = greatest(b.limited_until, excluded.limited_until), updated_at = clock_timestamp();
end;

-- Takes the next turn to call, for each pair of provider and tenant (null: it knows one only), in their order. wait_ms is
-- how long to wait before calling; of one that is not granted, how long until it makes sense to ask again: nothing is
-- reserved for it. Calls of a provider that has a limit are evenly spaced, whoever makes them, which leaves no room for a
-- burst at the turn of a minute; a twentieth of the limit is kept for calls that leave late and arrive early.
create or replace function outbox.take_turns(providers text[], tenants text[], max_wait_ms float8)
returns table ("position" int, granted boolean, wait_ms float8, reason text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  moment timestamptz := clock_timestamp();
  ask record;
  spacing interval;
  turn timestamptz;
begin
  for ask in
    select
      a.number::int as number, p.name, p.next_call_at, p.paused_at is not null as is_paused,
      coalesce(p.operator_requests_per_minute, p.requests_per_minute) as per_minute,
      (
        select max(b.limited_until)
        from outbox.breakers b
        where b.provider = p.name and b.tenant in ('', a.tenant) and b.limited_until > moment
      ) as limited_until
    from unnest(take_turns.providers, take_turns.tenants) with ordinality as a (provider, tenant, number)
    left join outbox.providers p on p.name = a.provider
    order by a.provider, a.number
  loop
    "position" := ask.number;
    granted := false;
    if ask.is_paused then
      wait_ms := 30000;
      reason := 'provider_paused';
    elsif ask.limited_until is not null then
      wait_ms := extract(epoch from ask.limited_until - moment) * 1000;
      reason := 'rate_limited';
    elsif ask.per_minute is null then
      granted := true;
      wait_ms := 0;
      reason := null;
    else
      spacing := interval '1 min' / (ask.per_minute * 0.95);
      update outbox.providers p
      set next_call_at = greatest(p.next_call_at, moment) + spacing
      where p.name = ask.name and p.next_call_at <= moment + take_turns.max_wait_ms * interval '1 ms'
      returning p.next_call_at - spacing into turn;
      granted := found;
      reason := case when granted then null else 'no_turn' end;
      if not granted then
        select p.next_call_at into turn from outbox.providers p where p.name = ask.name;
      end if;
      wait_ms := greatest(extract(epoch from turn - moment) * 1000, 0);
    end if;
    return next;
  end loop;
end $$;

-- A person's pause: no job calls the provider until it is resumed, and none spends an attempt. Both return whether anything
-- changed, and raise OB012 for a provider that does not exist.
create or replace function outbox.pause_provider(name text, paused_by text, reason text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.assert_provider(pause_provider.name);
  update outbox.providers p
  set paused_at = clock_timestamp(), paused_by = pause_provider.paused_by, reason = pause_provider.reason
  where p.name = pause_provider.name and p.paused_at is null;
  return found;
end $$;

create or replace function outbox.resume_provider(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.assert_provider(resume_provider.name);
  update outbox.providers p
  set paused_at = null, paused_by = null, reason = null
  where p.name = resume_provider.name and p.paused_at is not null;
  return found;
end $$;

create or replace function outbox.assert_provider(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from outbox.providers p where p.name = assert_provider.name) then
    raise exception 'There is no provider named "%".', assert_provider.name
      using errcode = 'OB012', hint = 'select name from outbox.providers lists the providers of this installation.';
  end if;
end $$;

-- Whom jobs call, and how much of it may be done at once.
alter table outbox.job_types
  add column provider text,
  -- Field of the payload that names the tenant of the provider; null when all jobs call as one and the same.
  add column tenant_field text;

-- Somebody else's API. Columns beginning with operator_ are the operator's, as in outbox.job_types.
create table outbox.providers (
  name text primary key,
  description text not null default '',
  requests_per_minute int constraint requests_per_minute_is_positive check (requests_per_minute > 0),
  operator_requests_per_minute int
    constraint operator_requests_per_minute_is_positive check (operator_requests_per_minute > 0),
  -- The earliest instant of the next call, when there is a limit.
  next_call_at timestamptz not null default '-infinity',
  paused_at timestamptz,
  paused_by text,
  reason text,
  -- The breaker opens after so many runs in a row that found the provider unavailable, and lets one run through after
  -- probe_after. While probes fail it waits a third of the time that the provider has been away, up to longest_probe_wait.
  breaker_threshold int not null default 5 constraint breaker_threshold_is_positive check (breaker_threshold > 0),
  probe_after interval not null default '60 s' constraint probe_after_is_positive check (probe_after > interval '0'),
  longest_probe_wait interval not null default '15 min',
  constraint a_pause_says_who check (paused_at is null or paused_by is not null),
  constraint probe_waits_grow check (longest_probe_wait >= probe_after)
);

alter table outbox.breakers
  add constraint a_breaker_knows_its_probe check ((state = 'closed') = (probe_at is null)),
  -- Jobs of the tenant's streak of failures, one entry for each attempt it cost: given back when a breaker opens.
  add column failed_jobs bigint[] not null default '{}',
  -- Tenants of the streak, each once; of the breaker for the whole provider.
  add column failed_tenants text[] not null default '{}',
  -- The one job that finds out whether the provider is back. probe_at is when one may: of an open breaker, the first; of
  -- one that is half open, the next, should nothing have been heard of this one.
  add column probe_job bigint,
  -- The provider asked everybody to wait until then (429).
  add column limited_until timestamptz;

-- Most jobs of the queue that run at the same time, in all workers together.
alter table outbox.queues
  add column concurrency int constraint concurrency_is_positive check (concurrency > 0),
  add column operator_concurrency int constraint operator_concurrency_is_positive check (operator_concurrency > 0);

-- The outbox: what has to happen, what happened, and what must not happen twice.
-- Tables of the whole design; functions and triggers live in ../functions and with their families.
-- Applied as outbox_owner, in the schema outbox that ../roles.sql made.

-- One row: which installation this database belongs to and who serves it.
create table outbox.meta (
  only_row boolean primary key default true constraint meta_has_one_row check (only_row),
  instance text not null,
  backend text not null constraint backend_is_known check (backend in ('redis', 'postgres')),
  schema_version int not null,
  publish_window interval not null default interval '72 hours',
  restore_counter bigint not null default 0,
  created_at timestamptz not null default now()
);

-- The catalogue, written by "migrate" from the job definitions. Columns beginning with operator_ are the operator's:
-- migrate never writes them, and they win where they are set.
create table outbox.job_types (
  name text primary key,
  family text not null,
  queue text not null,
  unique_mode text not null constraint unique_mode_is_known check (unique_mode in ('waiting', 'open', 'none')),
  priority int not null default 0,
  delay interval not null default interval '0',
  max_attempts int not null constraint max_attempts_is_positive check (max_attempts > 0),
  backoff_type text not null constraint backoff_type_is_known check (backoff_type in ('exponential', 'fixed')),
  backoff interval not null,
  backoff_jitter real not null constraint backoff_jitter_is_a_fraction check (backoff_jitter between 0 and 1),
  timeout interval not null constraint timeout_is_positive check (timeout > interval '0'),
  retention interval not null,
  failed_retention interval not null,
  operator_delay interval,
  operator_max_attempts int constraint operator_max_attempts_is_positive check (operator_max_attempts > 0),
  operator_backoff interval,
  operator_timeout interval constraint operator_timeout_is_positive check (operator_timeout > interval '0'),
  operator_retention interval,
  operator_failed_retention interval,
  description text not null default '',
  updated_at timestamptz not null default now()
);

-- The fence: every claim of any row takes a new number, never repeated.
create sequence outbox.run as bigint;

-- The truth: one row per job. See docs/architecture.md for the states.
create table outbox.jobs (
  id bigint generated always as identity primary key,
  generation int not null default 1,
  run bigint,
  name text not null,
  queue text not null,
  key text,
  holds_key boolean not null default false,
  serial_key text,
  owner_id uuid,
  payload jsonb not null default '{}',
  scheduled_at timestamptz not null,
  due_at timestamptz not null,
  priority int not null default 0,
  state text not null default 'pending'
    constraint state_is_known
    check (state in ('pending', 'published', 'active', 'completed', 'skipped', 'failed', 'cancelled')),
  attempt int not null default 0,
  -- BullMQ gets 1,000 attempts for each: it must never give up before the row does.
  max_attempts int not null constraint max_attempts_is_bounded check (max_attempts between 1 and 900),
  interruptions int not null default 0,
  rerun boolean not null default false,
  publish_failures int not null default 0,
  last_error text,
  reason text,
  result jsonb,
  progress jsonb,
  provider_tenant text,
  locked_by text,
  locked_until timestamptz,
  cancel_requested_at timestamptz,
  published_epoch bigint,
  idempotency_key text,
  traceparent text,
  created_at timestamptz not null default now(),
  published_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  constraint payload_is_an_object check (jsonb_typeof(payload) = 'object'),
  constraint only_active_rows_are_locked check ((state = 'active') = (locked_until is not null)),
  constraint finished_rows_say_when
    check ((state in ('completed', 'skipped', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint finished_rows_hold_no_key check (finished_at is null or not holds_key)
)
-- A row is updated about four times in its life: room on the page keeps those updates HOT, and vacuum comes early.
with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Uniqueness: holds_key is set at enqueue, cleared at the first claim ('waiting') or at the end ('open'), never set again
-- by a retry. State is kept out of every predicate, so that a change of state alone stays HOT.
create unique index jobs_one_holder_of_a_key on outbox.jobs (name, key) where holds_key;
create unique index jobs_one_per_idempotency_key on outbox.jobs (name, owner_id, idempotency_key) nulls not distinct
  where idempotency_key is not null;
create index jobs_by_key on outbox.jobs (key, name);
-- Everything that is not over, earliest due first: what the bridge compares with BullMQ.
create index jobs_open on outbox.jobs (scheduled_at, id) where finished_at is null;
create index jobs_finished on outbox.jobs (finished_at) where finished_at is not null;

-- Idempotency keys of requests that were answered with a row that somebody else's request had made.
create table outbox.idempotency_keys (
  name text not null,
  owner_id uuid,
  idempotency_key text not null,
  job_id bigint not null,
  created_at timestamptz not null default now(),
  constraint one_answer_per_idempotency_key unique nulls not distinct (name, owner_id, idempotency_key)
);
create index idempotency_keys_by_job on outbox.idempotency_keys (job_id);

-- What the bridge has to publish, narrow. Written in the business transaction; afterwards only the bridge touches it, so
-- no business write ever waits for a publish in flight. far = beyond the publish window: it waits in Postgres.
create table outbox.ready (
  job_id bigint not null,
  generation int not null,
  priority int not null,
  scheduled_at timestamptz not null,
  far boolean not null default false,
  retry_at timestamptz,
  primary key (job_id, generation)
)
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
create index ready_in_order on outbox.ready (priority desc, scheduled_at) where not far;
create index ready_far_in_order on outbox.ready (scheduled_at) where far;

-- What the bridge has to take out of BullMQ.
create table outbox.removals (
  id bigint generated always as identity primary key,
  queue text not null,
  job_id bigint not null,
  generation int not null,
  requested_at timestamptz not null default now()
);

-- One row per attempt that ended, however it ended.
create table outbox.attempts (
  job_id bigint not null,
  run bigint not null,
  attempt int not null,
  worker text,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  outcome text not null
    constraint outcome_is_known
    check (outcome in ('completed', 'skipped', 'retried', 'failed', 'parked', 'interrupted', 'handed_back', 'cancelled')),
  reason text,
  error text,
  primary key (job_id, run)
);

-- The effect ledger: calls that must not happen twice, by the business fact. It outlives the jobs (no foreign key).
create table outbox.effects (
  id bigint generated always as identity primary key,
  -- In the order of its bytes, so that all effects of one business object are found by their common beginning.
  key text collate "C" not null constraint effects_happen_once unique,
  job_id bigint not null,
  run bigint not null,
  provider text not null,
  tenant text,
  state text not null
    constraint state_is_known check (state in ('started', 'confirmed', 'rejected', 'unknown')),
  request jsonb not null default '{}',
  reference text,
  reason text,
  started_at timestamptz not null default clock_timestamp(),
  deadline_at timestamptz not null,
  settled_at timestamptz,
  resolved_by text,
  constraint settled_effects_say_when check ((state = 'started') = (settled_at is null)),
  constraint confirmed_effects_have_a_reference check (state <> 'confirmed' or reference is not null)
);
create index effects_by_job on outbox.effects (job_id);
create index effects_settled on outbox.effects (settled_at) where settled_at is not null;
create index effects_unsettled on outbox.effects (started_at) where state in ('started', 'unknown');

-- Which table writes which job, and since when the sweep may look.
create table outbox.captures (
  id bigint generated always as identity primary key,
  table_name text not null,
  job_name text not null,
  rule jsonb not null default '{}',
  enabled boolean not null default true,
  enabled_at timestamptz not null default now(),
  constraint one_capture_per_table_and_job unique (table_name, job_name)
);

-- What a capture could not write. The business write went through; the sweep or a person heals it.
create table outbox.capture_errors (
  id bigint generated always as identity primary key,
  captured_at timestamptz not null default clock_timestamp(),
  table_name text not null,
  job_name text not null,
  key text,
  sqlstate text not null,
  message text not null,
  healed_at timestamptz
);

-- What a person or a limit decided about a queue; BullMQ's own pause and limits are set from here.
create table outbox.queues (
  name text primary key,
  epoch bigint not null default 0,
  paused_at timestamptz,
  paused_by text,
  reason text,
  rate_limit_max int,
  rate_limit_duration interval,
  constraint a_pause_says_who check (paused_at is null or paused_by is not null)
);

-- Circuit breakers per provider, and per tenant of it ('' = the whole provider).
create table outbox.breakers (
  provider text not null,
  tenant text not null default '',
  state text not null default 'closed'
    constraint state_is_known check (state in ('closed', 'open', 'half_open')),
  consecutive_failures int not null default 0,
  opened_at timestamptz,
  probe_at timestamptz,
  last_error text,
  updated_at timestamptz not null default now(),
  primary key (provider, tenant)
);

-- Heartbeats: who is running.
create table outbox.services (
  id text primary key,
  service text not null,
  version text not null,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  details jsonb not null default '{}'
);
create index services_by_kind on outbox.services (service, seen_at);

-- Who did what to a job by hand.
create table outbox.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  role text not null,
  action text not null,
  job_id bigint,
  detail jsonb not null default '{}'
);
create index audit_by_job on outbox.audit (job_id) where job_id is not null;

-- Ids that rows had before they were imported here.
create table outbox.legacy_ids (
  legacy_id uuid primary key,
  job_id bigint not null constraint one_legacy_id_per_job unique
);

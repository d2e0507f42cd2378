-- What the family has to remember besides the host's tables. Applied once, never edited afterwards.

create schema if not exists gmb authorization outbox_owner;

set local role outbox_owner;

-- How far an account has been read. No reference to the host's table, which may be any: the sweep clears what is left.
create table gmb.account_marks (
  account_id uuid primary key,
  -- When the newest complete listing of its locations began.
  listed_at timestamptz,
  -- When a full sync ended last; null: there is nothing yet that an incremental one could go on from.
  full_synced_at timestamptz
);

-- How far each location of an account has been read.
create table gmb.location_marks (
  account_id uuid not null,
  -- Google's name of it, e.g. locations/2.
  name text not null,
  -- Of what Google said about it last: a location has no time of change.
  hash text,
  -- The watermark: every change of a review up to this updateTime has been recorded. It only grows.
  reviews_until timestamptz,
  -- When the newest complete listing of its reviews began.
  listed_at timestamptz,
  -- The job that was through with its reviews last, when, and why it could not read them. A sync that needs several runs
  -- goes on with the other locations.
  done_job bigint,
  done_at timestamptz,
  problem text,
  primary key (account_id, name)
);

-- Who worked when, as the application knew it. A row with a worker tells of the jobs that this worker began in that
-- minute; one without, of an HTTP trigger.
create table gmb.sync_worker_runs (
  id uuid primary key default gen_random_uuid(),
  status text not null default 'running' constraint status_is_known check (status in ('running', 'completed', 'failed')),
  jobs_picked int not null default 0,
  jobs_processed int not null default 0,
  jobs_succeeded int not null default 0,
  jobs_failed int not null default 0,
  notes text,
  metadata jsonb not null default '{}',
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  worker text,
  minute timestamptz,
  constraint a_worker_has_a_minute check ((worker is null) = (minute is null)),
  constraint one_run_per_worker_and_minute unique (worker, minute)
);
create index sync_worker_runs_by_start on gmb.sync_worker_runs (started_at);
create index sync_worker_runs_running on gmb.sync_worker_runs (started_at) where status = 'running';
create index sync_worker_runs_by_minute on gmb.sync_worker_runs (minute) where minute is not null;
alter table gmb.sync_worker_runs enable row level security;

-- What one person's queue and the runs of the last minutes are read by. Only rows of this family are in them.
create index gmb_jobs_by_owner on outbox.jobs (owner_id, created_at) where name = 'gmb_sync';
create index gmb_jobs_by_start on outbox.jobs (started_at) where name = 'gmb_sync';

reset role;

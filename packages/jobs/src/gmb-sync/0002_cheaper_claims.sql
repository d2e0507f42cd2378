-- An index on a column that every claim sets keeps each of them, of all families, from being a HOT update. What has begun in
-- the last minutes is open still, or has ended since.

set local role outbox_owner;

drop index outbox.gmb_jobs_by_start;
create index gmb_jobs_open on outbox.jobs (id) where name = 'gmb_sync' and finished_at is null;
create index gmb_jobs_ended on outbox.jobs (finished_at) where name = 'gmb_sync' and finished_at is not null;

reset role;

-- What a row of gmb.sync_queue is found by.

set local role outbox_owner;

create index gmb_jobs_by_uuid on outbox.jobs (outbox.job_uuid(id)) where name = 'gmb_sync';

reset role;

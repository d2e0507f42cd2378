-- What a row of bubble.sync_queue is found by.

set local role outbox_owner;

create index bubble_jobs_by_uuid on outbox.jobs (outbox.job_uuid(id)) where name = 'bubble_user_sync';

reset role;

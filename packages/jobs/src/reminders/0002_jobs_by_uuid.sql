-- What a row of reminders.job_queue is found by.

set local role outbox_owner;

create index reminder_jobs_by_uuid on outbox.jobs (outbox.job_uuid(id)) where name in ('reminder_24h', 'pause_check_48h');

reset role;

-- That of an auto sync one reminder and one pause check wait at a time follows from the index for all jobs already. This one
-- says so under the name by which people look whether they are safe from duplicates. It costs other families nothing.

set local role outbox_owner;

create unique index idx_job_queue_one_pending_per_type on outbox.jobs (key, name)
  where holds_key and name in ('reminder_24h', 'pause_check_48h');

reset role;

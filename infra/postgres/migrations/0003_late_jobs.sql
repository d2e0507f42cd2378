-- One class more: BullMQ has the job, but hands it out long after the row's instant.
alter table outbox.repairs
  drop constraint class_is_known,
  add constraint class_is_known check (class in ('epoch', 'missing', 'ended', 'stranded', 'late', 'orphaned'));

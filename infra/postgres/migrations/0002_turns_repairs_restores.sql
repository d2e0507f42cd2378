-- Serial keys: jobs of one serial key never run at the same time. A row with one is admitted before it is published, and
-- stays so until it ends; the index lets in one at a time. State is kept out of the predicate, as everywhere: the
-- updates of rows without a serial key stay HOT.
alter table outbox.jobs
  add column admitted boolean not null default false,
  add constraint only_serial_rows_are_admitted check (not admitted or serial_key is not null),
  add constraint finished_rows_are_not_admitted check (finished_at is null or not admitted);
create unique index jobs_one_admitted_per_serial_key on outbox.jobs (serial_key) where admitted;

-- Set while the row waits for its turn; the bridge clears it when it admits the row.
alter table outbox.ready add column serial_key text;
drop index outbox.ready_in_order;
create index ready_in_order on outbox.ready (priority desc, scheduled_at) where not far and serial_key is null;
create index ready_in_turn on outbox.ready (serial_key, priority desc, scheduled_at) where serial_key is not null;
create index ready_turns_in_time on outbox.ready (scheduled_at) where serial_key is not null;

-- A counter that only grows, here and in the queue backend. When the backend has seen a higher one, this database was
-- restored to an older state: jobs since then may have run, and the ledger does not know. counted_at is when it last grew.
-- restored_from and restored_at: the time of which nothing is known, once a person has let work go on.
alter table outbox.meta
  add column counted_at timestamptz not null default now(),
  add column restored_from timestamptz,
  add column restored_at timestamptz;

-- What the bridge found to differ between rows and BullMQ, by class: how many by its last look at everything (0 in steady
-- state), and how many it has repaired in all.
create table outbox.repairs (
  queue text not null,
  class text not null
    constraint class_is_known check (class in ('epoch', 'missing', 'ended', 'stranded', 'orphaned')),
  drift int not null default 0,
  repaired bigint not null default 0,
  looked_at timestamptz,
  repaired_at timestamptz,
  primary key (queue, class)
);

-- What a person said about an effect that nobody could tell.
alter table outbox.effects add column note text;

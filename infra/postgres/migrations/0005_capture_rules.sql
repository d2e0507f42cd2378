-- Captures that are declared (outbox.capture): the rule by name, and which triggers serve it, by event. Rows without a name
-- are of triggers written by hand, one for each event.
alter table outbox.captures
  add column name text constraint capture_names_are_unique unique,
  add column triggers jsonb,
  add constraint declared_captures_have_triggers check (name is null or triggers is not null);

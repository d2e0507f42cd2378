-- The fence: a number that no other claim has, of any row, at any time. The instant makes it one that was not given out
-- before even when the database has forgotten what it gave out: claims do not wait for the disk, and a sequence that
-- was in no log yet goes back with a crash. Microseconds since 2020 and the last ten bits of a sequence, which tell claims
-- of the same instant apart.
create or replace function outbox.new_run() returns bigint
language sql volatile
return
  (((extract(epoch from clock_timestamp()) - 1577836800) * 1000000)::bigint << 10) | (nextval('outbox.run') & 1023);

-- A row is updated three times on its way: published, claimed, ended. Written in bulk, rows filled their pages up to seven
-- tenths, which is no room for three more versions of each: six of seven updates moved to another page, with an entry in
-- every index for each.
alter table outbox.jobs set (fillfactor = 40);

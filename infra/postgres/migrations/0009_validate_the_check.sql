-- Reads all rows, beside those who write.
alter table outbox.jobs validate constraint state_fits_the_row;

-- What a capture could not write is set aside here, never raised: the business write goes through. Called from the
-- exception handler of a capture function, with the fields of the error.
create or replace function outbox.record_capture_error(
  table_name text,
  job_name text,
  key text,
  sqlstate text,
  message text
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into outbox.capture_errors (table_name, job_name, key, sqlstate, message)
  values (
    record_capture_error.table_name, record_capture_error.job_name, record_capture_error.key,
    record_capture_error.sqlstate, record_capture_error.message
  );
exception when others then
  raise warning 'outbox: job % for % was not captured (% %), nor could that be recorded (% %)',
    job_name, key, record_capture_error.sqlstate, record_capture_error.message, SQLSTATE, sqlerrm;
end $$;

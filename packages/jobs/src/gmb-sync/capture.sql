-- An account that is deactivated or deleted has no open sync a moment later: the statement that does it cancels it. Nothing is
-- enqueued for an account by itself; somebody asks for its syncs.
do $$
begin
  perform outbox.capture(
    name => 'gmb.accounts', table_name => 'public.gmb_accounts', job_name => 'gmb_sync', key => 'row.id::text',
    columns => '{is_active}', "when" => 'false', cancel_when => 'not row.is_active',
    payload => $payload$jsonb_build_object('accountId', row.id, 'syncType', 'incremental')$payload$,
    events => '{update,delete}', reason => 'account_inactive'
  );
end $$;

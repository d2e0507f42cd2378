import { rowsOf, useGmb } from './gmb.fixture.ts';

const gmb = useGmb();

test('a sync has three attempts, waits one minute and two, at most a quarter more, and ends after ten minutes', async () => {
  const kind = `
    select unique_mode, priority, delay::text, max_attempts, backoff_type, backoff::text, backoff_jitter, timeout::text,
      retention::text, failed_retention::text, provider, tenant_field
    from outbox.job_types where name = 'gmb_sync'`;
  expect(await rowsOf(gmb.database.pool, kind)).toEqual([
    {
      ...{ unique_mode: 'open', priority: 0, delay: '00:00:00', max_attempts: 3, timeout: '00:10:00' },
      ...{ backoff_type: 'exponential', backoff: '00:01:00', backoff_jitter: 0.25 },
      ...{ retention: '30 days', failed_retention: '30 days', provider: 'google', tenant_field: 'accountId' },
    },
  ]);
});

test('all syncs together make 300 calls a minute, whoever they are for', async () => {
  const limit = `select requests_per_minute from outbox.providers where name = 'google'`;
  expect(await rowsOf(gmb.database.pool, limit)).toEqual([{ requests_per_minute: 300 }]);
});

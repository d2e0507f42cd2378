import type pg from 'pg';
import type { JobDefinition, TimingsName } from '@outbox/core';

const UPSERT_JOB_TYPE = /* sql */ `
  insert into outbox.job_types (
    name, family, queue, unique_mode, delay, max_attempts, backoff_type, backoff, backoff_jitter, timeout, retention,
    failed_retention, description, provider, tenant_field
  )
  values (
    $1, $2, $3, $4, $5 * interval '1 ms', $6, $7, $8 * interval '1 ms', $9, $10 * interval '1 ms',
    $11 * interval '1 day', $12 * interval '1 day', $13, $14, $15
  )
  on conflict (name) do update set
    family = excluded.family, queue = excluded.queue, unique_mode = excluded.unique_mode, delay = excluded.delay,
    max_attempts = excluded.max_attempts, backoff_type = excluded.backoff_type, backoff = excluded.backoff,
    backoff_jitter = excluded.backoff_jitter, timeout = excluded.timeout, retention = excluded.retention,
    failed_retention = excluded.failed_retention, description = excluded.description,
    provider = excluded.provider, tenant_field = excluded.tenant_field, updated_at = now()`;

const UPSERT_QUEUE = /* sql */ `
  insert into outbox.queues (name, concurrency) values ($1, $2)
  on conflict (name) do update set concurrency = excluded.concurrency`;

const UPSERT_PROVIDER = /* sql */ `
  insert into outbox.providers (name, description, requests_per_minute) values ($1, $2, $3)
  on conflict (name) do update set
    description = excluded.description, requests_per_minute = excluded.requests_per_minute`;

/**
 * Writes the job definitions, their queues and providers where SQL can read them. The operator_ columns are left alone, and so are jobs that are no
 * longer defined: their rows may still be open.
 */
export async function syncJobTypes(
  client: pg.ClientBase,
  definitions: readonly JobDefinition[],
  timings: TimingsName,
): Promise<void> {
  for (const job of definitions) {
    const { delayMs, backoffMs } = job.timings[timings];
    await client.query(UPSERT_JOB_TYPE, [
      job.name,
      job.family,
      job.queue,
      job.unique,
      delayMs,
      job.attempts,
      job.backoff.type,
      backoffMs,
      job.backoff.jitter,
      job.timeoutMs,
      job.retentionDays,
      job.failedRetentionDays,
      job.description,
      job.provider?.name,
      job.tenantField,
    ]);
    if (job.provider) {
      const { name, description, requestsPerMinute } = job.provider;
      await client.query(UPSERT_PROVIDER, [name, description, requestsPerMinute]);
    }
  }
  for (const queue of new Set(definitions.map((job) => job.queue))) {
    await client.query(UPSERT_QUEUE, [queue, leastConcurrency(definitions.filter((job) => job.queue === queue))]);
  }
}

/** What all jobs of one queue agree to; undefined when none of them sets a limit. */
function leastConcurrency(jobs: readonly JobDefinition[]): number | undefined {
  const limits = jobs.flatMap(({ concurrency }) => concurrency ?? []);
  return limits.length > 0 ? Math.min(...limits) : undefined;
}

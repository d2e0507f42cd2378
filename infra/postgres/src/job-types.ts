import type pg from 'pg';
import type { JobDefinition, TimingsName } from '@outbox/core';

const UPSERT_JOB_TYPE = /* sql */ `
  insert into outbox.job_types (
    name, family, queue, unique_mode, delay, max_attempts, backoff_type, backoff, backoff_jitter, timeout, retention,
    failed_retention, description
  )
  values (
    $1, $2, $3, $4, $5 * interval '1 ms', $6, $7, $8 * interval '1 ms', $9, $10 * interval '1 ms',
    $11 * interval '1 day', $12 * interval '1 day', $13
  )
  on conflict (name) do update set
    family = excluded.family, queue = excluded.queue, unique_mode = excluded.unique_mode, delay = excluded.delay,
    max_attempts = excluded.max_attempts, backoff_type = excluded.backoff_type, backoff = excluded.backoff,
    backoff_jitter = excluded.backoff_jitter, timeout = excluded.timeout, retention = excluded.retention,
    failed_retention = excluded.failed_retention, description = excluded.description, updated_at = now()`;

/**
 * Writes the job definitions where SQL can read them. The operator_ columns are left alone, and so are jobs that are no
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
    ]);
  }
  await client.query(/* sql */ `insert into outbox.queues (name) select unnest($1::text[]) on conflict do nothing`, [
    definitions.map(({ queue }) => queue),
  ]);
}

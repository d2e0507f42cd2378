import { defineJob, FIRST_BACKOFF_MS, MINUTE } from '@outbox/core';
import { z } from 'zod';
import { google } from './provider.ts';

/**
 * Brings the locations and reviews of a Google Business Profile account into the host's tables. A full sync reads all of
 * them and marks as deleted what Google no longer lists; an incremental one compares the locations by hash and reads
 * reviews back to where the last one stopped. Asked for by an insert into gmb.sync_queue, by the API or by a schedule, all
 * of which call gmb.enqueue_sync (enqueue.sql); there is one open sync of an account at a time.
 *
 * All it does may be repeated: calls are reads, writes set what Google says. What was read is written page by page, and each
 * location that is through is marked, so another attempt goes on with the rest. An account too large for one run is
 * finished by the next ones, which spend no attempt. How it ends is told to the host: a success in the transaction that
 * completes it, a failure by whatever ends it (marks.sql).
 */
export const gmbSync = defineJob({
  name: 'gmb_sync',
  family: 'gmb',
  queue: 'gmb-sync',
  description: 'Syncs the locations and reviews of a Google Business Profile account',
  payload: z.object({
    accountId: z.uuid(),
    syncType: z.enum(['full', 'incremental']),
    metadata: z.record(z.string(), z.unknown()).optional(),
  }),
  key: ({ accountId }) => accountId,
  unique: 'open',
  prioritized: true,
  provider: google,
  tenantField: 'accountId',
  // Five calls a second feed no more than this: each sync is over sooner, and one that is urgent finds a place sooner.
  concurrency: 10,
  timings: {
    production: { delayMs: 0, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 0, backoffMs: FIRST_BACKOFF_MS / 30 },
  },
  attempts: 3,
  backoff: { type: 'exponential', jitter: 0.25 },
  timeoutMs: 10 * MINUTE,
  retentionDays: 30,
  failedRetentionDays: 30,
});

export type SyncType = z.output<typeof gmbSync.payload>['syncType'];

import { defineJob, FIRST_BACKOFF_MS, SECOND } from '@outbox/core';
import { z } from 'zod';

/**
 * Brings one user into Bubble as the user stands when the job runs: looks it up there by our id, then creates it or updates
 * it. Started by the capture of `bubble.user_source`'s table (user-source.sql), at sign-up and whenever a copied column
 * changes; what the capture missed, the sweep finds (sweep.sql). Changes made while a job waits are covered by it.
 *
 * Jobs of one user never run at the same time, or an older state could arrive last. A user deleted meanwhile is skipped.
 */
export const bubbleUserSync = defineJob({
  name: 'bubble_user_sync',
  family: 'bubble',
  queue: 'bubble-sync',
  description: 'Copies a user to Bubble',
  payload: z.object({ userId: z.uuid() }),
  key: ({ userId }) => userId,
  serialKey: ({ userId }) => `bubble_user:${userId}`,
  provider: {
    name: 'bubble',
    // Bubble's Starter plan allows 15,000 requests a minute for an app, those of its own pages' workflows included.
    requestsPerMinute: 12_000,
    description: 'Bubble Data API',
  },
  concurrency: 5,
  unique: 'waiting',
  timings: {
    production: { delayMs: 0, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 0, backoffMs: 2 * SECOND },
  },
  attempts: 4,
  retentionDays: 30,
});

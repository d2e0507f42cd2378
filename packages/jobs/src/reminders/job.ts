import { defineJob, FIRST_BACKOFF_MS, HOUR, SECOND } from '@outbox/core';
import { z } from 'zod';

/**
 * Texts every member of the crew who has not answered an auto sync, once, 24 h after it was created, and then plans the
 * pause check. Started by the trigger on_auto_sync_created (trigger.sql). Each text is an effect of its own, so a second
 * attempt reaches only those whom the first did not. Nobody left to text, or an auto sync that is not running any more,
 * is skipped.
 */
export const sendReminder = defineJob({
  name: 'reminder_24h',
  family: 'reminders',
  queue: 'reminders',
  description: 'Texts the members who have not answered an auto sync',
  payload: z.object({ autoSyncId: z.uuid() }),
  key: ({ autoSyncId }) => autoSyncId,
  unique: 'waiting',
  timings: {
    production: { delayMs: 24 * HOUR, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 8 * SECOND, backoffMs: 2 * SECOND },
  },
  attempts: 3,
  retentionDays: 3,
  failedRetentionDays: 30,
});

import { defineJob, FIRST_BACKOFF_MS, HOUR, SECOND } from '@outbox/core';
import { z } from 'zod';
import { twilio } from './twilio.ts';

/**
 * Texts every member of the crew who has not answered an auto sync, once, 24 h after it was created, and then plans the
 * pause check. Started by the trigger on_auto_sync_created (trigger.sql); what the trigger missed, the sweep finds
 * (sweep.sql). Each text is an effect of its own, so a second attempt reaches only those whom the first did not. Nobody left
 * to text, or an auto sync that is not running any more, is skipped.
 *
 * It ends when every text is confirmed, rejected or unknown. If some cannot be sent for good it fails, so that a person can
 * mend the cause and redrive it; those who were texted are recorded and followed up all the same.
 *
 * A reminder that is more than 24 h late (REMINDER_TOO_LATE; an outage) texts nobody any more. Whom it had texted in time is
 * recorded and followed up; if it had texted nobody, it is skipped. With QUIET_HOURS it waits for their end.
 */
export const sendReminder = defineJob({
  name: 'reminder_24h',
  family: 'reminders',
  queue: 'reminders',
  description: 'Texts the members who have not answered an auto sync',
  payload: z.object({ autoSyncId: z.uuid() }),
  key: ({ autoSyncId }) => autoSyncId,
  provider: twilio,
  unique: 'waiting',
  timings: {
    production: { delayMs: 24 * HOUR, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 8 * SECOND, backoffMs: 2 * SECOND },
  },
  attempts: 3,
  retentionDays: 3,
  failedRetentionDays: 30,
});

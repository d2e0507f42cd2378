import { defineJob, FIRST_BACKOFF_MS, HOUR, SECOND } from '@outbox/core';
import { z } from 'zod';

/**
 * Pauses an auto sync whose crew has still not answered, 48 h after the reminder went out. The reminder plans it, in the
 * transaction that records the texts. An auto sync that is not running any more, or whose goal is met, is skipped.
 *
 * There is no too late for it: it tells nobody anything, and reads how the auto sync stands when it runs. A crew that had
 * more time to answer because of an outage only gains by that.
 */
export const pauseCheck = defineJob({
  name: 'pause_check_48h',
  family: 'reminders',
  queue: 'pause-checks',
  description: 'Pauses an auto sync that is still short of answers',
  payload: z.object({ autoSyncId: z.uuid() }),
  key: ({ autoSyncId }) => autoSyncId,
  ownerCheck: 'reminders.is_organizer',
  unique: 'waiting',
  timings: {
    production: { delayMs: 48 * HOUR, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 8 * SECOND, backoffMs: 2 * SECOND },
  },
  attempts: 3,
  retentionDays: 3,
  failedRetentionDays: 30,
});

import { defineJob, FIRST_BACKOFF_MS, MINUTE, SECOND, type ProviderDefinition } from '@outbox/core';
import { z } from 'zod';

/** One API key opens one project, and a project belongs to one integration: whatever Golioth refuses, it refuses that one. */
export const golioth: ProviderDefinition = {
  name: 'golioth',
  description: 'Golioth Management API: the devices of a project',
};

/**
 * Reads the devices of an integration's project at Golioth and writes them where the application looks: new ones are added,
 * known ones updated, and those that are gone marked as missing. Started by a schedule (auto_sync_schedules): its triggers
 * (trigger.sql) keep one job waiting for the next slot, and every run plans the one after it when it begins (schedules.sql),
 * so a run that fails, or comes late, takes no other one with it. `golioth.run_now` starts one at once.
 *
 * Without `scheduleId` the integration is synced once, by itself. Syncs of one integration never run at the same time.
 *
 * It only reads there and writes absolute values here, so it may be repeated. What only a person can mend (a key that is
 * refused, a project that is gone) fails at once and is shown on the integration; the next slot tries again.
 */
export const syncDevices = defineJob({
  name: 'golioth_device_sync',
  family: 'golioth',
  queue: 'golioth-sync',
  description: 'Copies the devices of a Golioth project',
  payload: z.object({ integrationId: z.uuid(), scheduleId: z.uuid().optional() }),
  key: ({ scheduleId, integrationId }) => scheduleId ?? integrationId,
  serialKey: ({ integrationId }) => `golioth:${integrationId}`,
  unique: 'waiting',
  provider: golioth,
  tenantField: 'integrationId',
  timings: {
    production: { delayMs: 0, backoffMs: FIRST_BACKOFF_MS },
    demo: { delayMs: 0, backoffMs: 2 * SECOND },
  },
  attempts: 3,
  timeoutMs: 10 * MINUTE,
  retentionDays: 30,
});

import { done, skipped, type JobHandler } from '@outbox/core';
import { findAutoSync } from '../reminders/store.ts';
import type { pauseCheck } from './job.ts';
import { pauseAutoSync } from './store.ts';

export const handlePauseCheck: JobHandler<typeof pauseCheck> = async ({ autoSyncId }, context) =>
  context.complete(async (tx) => {
    const sync = await findAutoSync(tx, autoSyncId);
    if (sync?.status !== 'running') return skipped('auto_sync_not_running');

    const { responseCount, responsesNeeded } = sync;
    if (responseCount >= responsesNeeded) return skipped('response_goal_met', { responseCount, responsesNeeded });

    const paused = await pauseAutoSync(tx, autoSyncId);
    return paused ? done({ responseCount, responsesNeeded }) : skipped('auto_sync_not_running');
  });

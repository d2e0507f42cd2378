import type { Queryable } from '@outbox/core';

const PAUSE_AUTO_SYNC = /* sql */ `
  select reminders.pause(auto_sync_id => $1) as paused
  limit 1`;

/** Pauses a running auto sync; false when it is not running any more. */
export async function pauseAutoSync(db: Queryable, autoSyncId: string): Promise<boolean> {
  const { rows } = await db.query<{ paused: boolean }>(PAUSE_AUTO_SYNC, [autoSyncId]);
  return rows[0]?.paused ?? false;
}

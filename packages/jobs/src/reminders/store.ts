import type { Queryable } from '@outbox/core';

export interface AutoSync {
  id: string;
  organizerId: string;
  eventName: string;
  status: 'running' | 'paused' | 'stopped' | 'completed';
  lastReminderSentAt: Date | null;
  memberCount: number;
  responseCount: number;
  /** Answers that meet the goal. */
  responsesNeeded: number;
}

const FIND_AUTO_SYNC = /* sql */ `
  select
    id, organizer_id as "organizerId", event_name as "eventName", status,
    last_reminder_sent_at as "lastReminderSentAt", member_count::int as "memberCount",
    response_count::int as "responseCount", responses_needed::int as "responsesNeeded"
  from reminders.auto_syncs
  where id = $1
  limit 1`;

/** How the auto sync stands now; undefined when it was deleted. */
export async function findAutoSync(db: Queryable, autoSyncId: string): Promise<AutoSync | undefined> {
  const { rows } = await db.query<AutoSync & Record<string, unknown>>(FIND_AUTO_SYNC, [autoSyncId]);
  return rows[0];
}

export interface Recipient {
  contactId: string;
  name: string;
  phone: string | null;
}

/** More members than any crew has: a limit, so that a broken view cannot text a country. */
const MOST_RECIPIENTS = 1_000;

const LIST_RECIPIENTS = /* sql */ `
  select contact_id as "contactId", name, phone
  from reminders.recipients
  where auto_sync_id = $1
  order by contact_id
  limit ${MOST_RECIPIENTS}`;

/** The members who have not answered, in a stable order. */
export async function listRecipients(db: Queryable, autoSyncId: string): Promise<Recipient[]> {
  const { rows } = await db.query<Recipient & Record<string, unknown>>(LIST_RECIPIENTS, [autoSyncId]);
  return rows;
}

const RECORD_MESSAGES = /* sql */ `
  select reminders.record_messages(auto_sync_id => $1, job_id => $2)
  limit 1`;

/** Writes a message for every text of this job that was sent and has none yet. */
export async function recordMessages(db: Queryable, autoSyncId: string, jobId: string): Promise<void> {
  await db.query(RECORD_MESSAGES, [autoSyncId, jobId]);
}

const MARK_REMINDED = /* sql */ `
  select reminders.mark_reminded(auto_sync_id => $1) as marked
  limit 1`;

/** Notes when the reminder went out; false when the auto sync is not running any more. */
export async function markReminded(db: Queryable, autoSyncId: string): Promise<boolean> {
  const { rows } = await db.query<{ marked: boolean }>(MARK_REMINDED, [autoSyncId]);
  return rows[0]?.marked ?? false;
}

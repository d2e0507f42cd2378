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
  /** IANA name, as the organizer gave it. */
  timezone: string;
}

const FIND_AUTO_SYNC = /* sql */ `
  select
    id, organizer_id as "organizerId", event_name as "eventName", status,
    last_reminder_sent_at as "lastReminderSentAt", member_count::int as "memberCount",
    response_count::int as "responseCount", responses_needed::int as "responsesNeeded",
    timezone
  from reminders.standings
  where id = $1
  limit 1`;

/** How the auto sync stands now; undefined when it was deleted. */
export async function findAutoSync(db: Queryable, autoSyncId: string): Promise<AutoSync | undefined> {
  const { rows } = await db.query<AutoSync & Record<string, unknown>>(FIND_AUTO_SYNC, [autoSyncId]);
  return rows[0];
}

const IS_RUNNING = /* sql */ `
  select exists (select from reminders.standings where id = $1 and status = 'running') as running
  limit 1`;

/** False as soon as somebody has paused, stopped, completed or deleted it. */
export async function isRunning(db: Queryable, autoSyncId: string): Promise<boolean> {
  const { rows } = await db.query<{ running: boolean }>(IS_RUNNING, [autoSyncId]);
  return rows[0]?.running ?? false;
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
  select reminders.record_messages(auto_sync_id => $1)
  limit 1`;

/** Writes a message for every text that was sent and has none yet. Safe to repeat. */
export async function recordMessages(db: Queryable, autoSyncId: string): Promise<void> {
  await db.query(RECORD_MESSAGES, [autoSyncId]);
}

const FOLLOW_UP = /* sql */ `
  select reminders.follow_up(auto_sync_id => $1)
  limit 1`;

/**
 * The same, and if anybody was texted, a running auto sync is marked as reminded and gets its pause check. Safe to repeat,
 * by any run: it goes by the ledger, and only the first time has consequences.
 */
export async function followUp(db: Queryable, autoSyncId: string): Promise<void> {
  await db.query(FOLLOW_UP, [autoSyncId]);
}

export interface Text {
  key: string;
  contactId: string;
  state: 'started' | 'confirmed' | 'rejected' | 'unknown';
  reference: string | null;
  reason: string | null;
}

const LIST_TEXTS = /* sql */ `
  select key, contact_id as "contactId", state, reference, reason
  from reminders.texts
  where key >= 'reminder:' || $1::uuid || ':' and key < 'reminder:' || $1::uuid || ':~'
  order by key
  limit ${MOST_RECIPIENTS}`;

/** What the ledger says of each member's text, whichever job and attempt sent it. */
export async function listTexts(db: Queryable, autoSyncId: string): Promise<Text[]> {
  const { rows } = await db.query<Text & Record<string, unknown>>(LIST_TEXTS, [autoSyncId]);
  return rows;
}

const HAS_TEXTED = /* sql */ `
  select exists (
    select from reminders.texts
    where key >= 'reminder:' || $1::uuid || ':' and key < 'reminder:' || $1::uuid || ':~' and job_id = $2
  ) as texted
  limit 1`;

/** True when a run of this very job has texted somebody, or may have. */
export async function hasTexted(db: Queryable, autoSyncId: string, jobId: string): Promise<boolean> {
  const { rows } = await db.query<{ texted: boolean }>(HAS_TEXTED, [autoSyncId, jobId]);
  return rows[0]?.texted ?? false;
}

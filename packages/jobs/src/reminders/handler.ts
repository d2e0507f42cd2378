import { done, PermanentError, SECOND, skipped, type JobContext, type JobHandler, type Outcome } from '@outbox/core';
import { pauseCheck } from '../pause-checks/job.ts';
import type { sendReminder } from './job.ts';
import type { SmsClient } from './sms-client.ts';
import * as store from './store.ts';
import type { AutoSync, Recipient } from './store.ts';

export interface ReminderDependencies {
  sms: SmsClient;
}

/** This family sends one reminder per auto sync; a second one would be number 2. */
const SEQUENCE = 1;

/** Longer than the client's own deadline (SMS_TIMEOUT_MS), whose error says more. */
const CALL_TIMEOUT_MS = 12 * SECOND;

export const handleSendReminder: JobHandler<typeof sendReminder, ReminderDependencies> = async (
  { autoSyncId },
  context,
) => {
  const sync = await store.findAutoSync(context.db, autoSyncId);
  if (sync?.status !== 'running') return skipWithRecord(autoSyncId, context); // the world moved on while we waited
  if (sync.lastReminderSentAt) return skipped('already_reminded');

  const recipients = await store.listRecipients(context.db, autoSyncId);
  const earlierTexts = await store.listTexts(context.db, autoSyncId);
  if (recipients.length === 0 && earlierTexts.length === 0) return skipped('everyone_responded');

  await textEach(recipients, sync, context);

  return context.complete(async (tx) => {
    const sent = await store.recordMessages(tx, autoSyncId);
    if (sent > 0 && (await store.markReminded(tx, autoSyncId))) {
      await tx.enqueue(pauseCheck, { payload: { autoSyncId }, ownerId: sync.organizerId });
    }
    return done({ texts: await store.listTexts(tx, autoSyncId), unreachable: withoutPhone(recipients) });
  });
};

/** An earlier attempt may have texted some before the auto sync was paused. */
async function skipWithRecord(autoSyncId: string, context: JobContext): Promise<Outcome> {
  return context.complete(async (tx) => {
    await store.recordMessages(tx, autoSyncId);
    return skipped('auto_sync_not_running');
  });
}

/**
 * Texts one after the other. Somebody who cannot be reached now does not keep the rest waiting: one error is thrown at
 * the end, one worth another attempt if there is any, and that attempt finds the others' outcomes in the ledger.
 */
async function textEach(
  recipients: Recipient[],
  sync: AutoSync,
  context: JobContext & ReminderDependencies,
): Promise<void> {
  const failures: unknown[] = [];
  for (const { contactId, phone } of recipients) {
    if (phone === null) continue;
    try {
      await text({ contactId, phone }, sync, context);
    } catch (error) {
      context.signal.throwIfAborted();
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures.find((error) => !(error instanceof PermanentError)) ?? failures[0];
}

async function text(
  { contactId, phone }: { contactId: string; phone: string },
  sync: AutoSync,
  { effect, sms }: JobContext & ReminderDependencies,
): Promise<void> {
  const message = { to: phone, body: reminderText(sync) };
  await effect({
    key: `reminder:${sync.id}:${contactId}:${SEQUENCE}`,
    provider: 'twilio',
    request: { contactId, body: message.body },
    call: (signal) => sms.send(message, signal),
    lookUp: (startedAt, signal) => sms.find(message, startedAt, signal),
    timeoutMs: CALL_TIMEOUT_MS,
  });
}

function withoutPhone(recipients: Recipient[]): string[] {
  return recipients.filter(({ phone }) => phone === null).map(({ contactId }) => contactId);
}

function reminderText({ eventName }: AutoSync): string {
  return `Reminder: "${eventName}" is still waiting for your answer.`;
}

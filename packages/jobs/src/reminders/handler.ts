import { done, PermanentError, SECOND, skipped, type JobContext, type JobHandler, type Outcome } from '@outbox/core';
import { z } from 'zod';
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
  await settleOpenTexts(autoSyncId, context);
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

/** Texts that an attempt before this one was sending when it ended. Until they are settled, nothing else happens. */
async function settleOpenTexts(autoSyncId: string, context: JobContext & ReminderDependencies): Promise<void> {
  const texts = await store.listTexts(context.db, autoSyncId);
  for (const { key } of texts.filter(({ state }) => state === 'started')) {
    await context.settle({ key, ...howToFind(context.sms) });
  }
}

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
    if (!(await store.isRunning(context.db, sync.id))) break; // paused while we text: the rest are not
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
    request: { contactId, ...message },
    call: (signal) => sms.send(message, signal),
    ...howToFind(sms),
  });
}

/** What the ledger keeps of a text. */
const sentText = z.object({ to: z.string(), body: z.string() });

/** A text is looked for as it was sent: since then the event may have another name, the contact another number. */
function howToFind(sms: SmsClient) {
  return {
    provider: 'twilio',
    lookUp: (request: Record<string, unknown>, startedAt: Date, signal: AbortSignal) =>
      sms.find(sentText.parse(request), startedAt, signal),
    timeoutMs: CALL_TIMEOUT_MS,
  };
}

function withoutPhone(recipients: Recipient[]): string[] {
  return recipients.filter(({ phone }) => phone === null).map(({ contactId }) => contactId);
}

function reminderText({ eventName }: AutoSync): string {
  return `Reminder: "${eventName}" is still waiting for your answer.`;
}

import {
  done,
  EffectUndecidedError,
  JobCancelledError,
  LeaseLostError,
  PermanentError,
  RateLimitedError,
  SECOND,
  skipped,
  type JobContext,
  type JobHandler,
  type Outcome,
} from '@outbox/core';
import { z } from 'zod';
import type { sendReminder } from './job.ts';
import { quietForMs } from './quiet-hours.ts';
import type { ReminderRules } from './reminder-settings.ts';
import type { SmsClient } from './sms-client.ts';
import * as store from './store.ts';
import type { AutoSync, Recipient, Text } from './store.ts';
import { twilio } from './twilio.ts';

export interface ReminderDependencies {
  sms: SmsClient;
  reminderRules: ReminderRules;
}

type Context = JobContext & ReminderDependencies;

/** This family sends one reminder per auto sync; a second one would be number 2. */
const SEQUENCE = 1;

/** Longer than the client's own deadline (SMS_TIMEOUT_MS), whose error says more. */
const CALL_TIMEOUT_MS = 12 * SECOND;

/** A run calls the provider for so long, and one call more: it ends before the job's time-out of 45 s. */
const CALL_FOR_MS = 30 * SECOND;

export const handleSendReminder: JobHandler<typeof sendReminder, ReminderDependencies> = async (
  { autoSyncId },
  context,
) => {
  const untilMs = performance.now() + CALL_FOR_MS;
  await settleOpenTexts(autoSyncId, untilMs, context);
  const sync = await store.findAutoSync(context.db, autoSyncId);
  if (sync?.status !== 'running') return skipWithRecord('auto_sync_not_running', autoSyncId, context);
  if (await isRemindedByOthers(sync, context)) return skipWithRecord('already_reminded', autoSyncId, context);

  const recipients = await store.listRecipients(context.db, autoSyncId);
  const earlierTexts = await store.listTexts(context.db, autoSyncId);
  if (recipients.length === 0 && earlierTexts.length === 0) return skipped('everyone_responded');

  const people = whomToText(recipients, earlierTexts);
  const isTooLate = context.lateMs > context.reminderRules.tooLateMs;
  if (people.length > 0 && !isTooLate) {
    assertNotQuiet(sync, context);
    const before = earlierTexts.length;
    await textEach({ people, sync, untilMs, before }, context);
  }
  return endWithRecord({ autoSyncId, recipients, tooLate: isTooLate ? people : [] }, context);
};

/** Not now: the job comes back after `retryAfterMs`, and no attempt is spent. */
class PutOffError extends RateLimitedError {}

/** Texts that an attempt before this one was sending when it ended. Until they are settled, nothing else happens. */
async function settleOpenTexts(autoSyncId: string, untilMs: number, context: Context): Promise<void> {
  const texts = await store.listTexts(context.db, autoSyncId);
  const open = texts.filter(({ state }) => state === 'started');
  for (const [settled, { key }] of open.entries()) {
    if (settled > 0 && performance.now() > untilMs) {
      throw new PutOffError(`What became of ${open.length - settled} texts is left for the next run.`, 0);
    }
    await context.settle({ key, ...howToFind(context.sms) });
  }
}

/** What this very job began it may go on with: it may have failed for some, have been recorded, and be redriven. */
async function isRemindedByOthers(sync: AutoSync, { db, jobId }: Context): Promise<boolean> {
  return sync.lastReminderSentAt !== null && !(await store.hasTexted(db, sync.id, jobId));
}

/**
 * Earlier runs may have texted some, before the auto sync was paused or before a person found out that an unknown text
 * did arrive: that is recorded all the same.
 */
async function skipWithRecord(reason: string, autoSyncId: string, context: Context): Promise<Outcome> {
  return context.complete(async (tx) => {
    await store.recordMessages(tx, autoSyncId);
    return skipped(reason);
  });
}

/** Everybody has an outcome, or is too late for one. Who was texted is recorded and followed up. */
async function endWithRecord(
  { autoSyncId, recipients, tooLate }: { autoSyncId: string; recipients: Recipient[]; tooLate: Reachable[] },
  context: Context,
): Promise<Outcome> {
  return context.complete(async (tx) => {
    await store.followUp(tx, autoSyncId);
    const texts = await store.listTexts(tx, autoSyncId);
    const result = { texts, unreachable: withoutPhone(recipients), tooLate: tooLate.map(({ contactId }) => contactId) };
    return tooLate.length > 0 && texts.length === 0 ? skipped('too_late', result) : done(result);
  });
}

interface Reachable {
  contactId: string;
  phone: string;
}

/** Those who have a phone and whose text has no outcome yet. */
function whomToText(recipients: Recipient[], texts: Text[]): Reachable[] {
  const settled = new Set(texts.filter(({ state }) => state !== 'started').map(({ contactId }) => contactId));
  return recipients.flatMap(({ contactId, phone }) =>
    phone === null || settled.has(contactId) ? [] : [{ contactId, phone }],
  );
}

/** The night is waited out; a reminder that is too late afterwards is skipped then. */
function assertNotQuiet({ timezone }: AutoSync, { reminderRules }: Context): void {
  if (reminderRules.quietHours === undefined) return;
  const waitMs = quietForMs(reminderRules.quietHours, timezone, new Date());
  if (waitMs > 0) throw new PutOffError(`It is quiet in ${timezone} now.`, waitMs);
}

/**
 * Texts one after the other: once somebody pauses the auto sync, nobody else is texted. A crew too large for one run is
 * finished by the next ones, which spend no attempt as long as each reaches somebody.
 *
 * Somebody who cannot be reached does not keep the rest waiting: one error is thrown at the end, one worth another
 * attempt if there is any, and that attempt texts only those who have no outcome yet.
 */
async function textEach(
  { people, sync, untilMs, before }: { people: Reachable[]; sync: AutoSync; untilMs: number; before: number },
  context: Context,
): Promise<void> {
  const failures: unknown[] = [];
  let texted = 0;
  for (const [position, person] of people.entries()) {
    if (performance.now() > untilMs) {
      if (texted === 0 && failures.length > 0) break;
      throw new PutOffError(`${people.length - position} people are left for the next run.`, 0);
    }
    if (!(await store.isRunning(context.db, sync.id))) break; // paused while we text: the rest are not
    try {
      await text(person, sync, context);
      texted += 1;
    } catch (error) {
      context.signal.throwIfAborted();
      if (concernsEverybody(error)) throw error;
      failures.push(error);
    }
    context.progress({ texted: before + texted, of: before + people.length });
  }
  if (failures.length > 0) await fail(failures, sync, context);
}

/** No text of this run can go out any more, or not now. */
function concernsEverybody(error: unknown): boolean {
  return error instanceof RateLimitedError || error instanceof JobCancelledError || error instanceof LeaseLostError;
}

/** When no attempt follows, this job will not come to record whom it did reach: that happens now. */
async function fail(failures: unknown[], sync: AutoSync, context: Context): Promise<never> {
  const failure = failures.find((error) => !(error instanceof PermanentError)) ?? failures[0];
  const isLast = context.attempt >= context.maxAttempts && !(failure instanceof EffectUndecidedError);
  if (isLast || failure instanceof PermanentError) await store.followUp(context.db, sync.id);
  throw failure;
}

async function text({ contactId, phone }: Reachable, sync: AutoSync, { effect, sms }: Context): Promise<void> {
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
    provider: twilio.name,
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

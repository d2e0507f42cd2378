import type { JobDefinition, JobHandler } from '@outbox/core';
import { z } from 'zod';
import {
  bubbleSettings,
  checkBubbleSettings,
  createBubbleClientOf,
  type BubbleSettings,
} from './bubble-sync/bubble-settings.ts';
import { handleBubbleUserSync, type BubbleDependencies } from './bubble-sync/handler.ts';
import type { catalog, JobName } from './catalog.ts';
import { handlePauseCheck } from './pause-checks/handler.ts';
import { handleSendReminder, type ReminderDependencies } from './reminders/handler.ts';
import {
  checkReminderSettings,
  createReminderRules,
  reminderSettings,
  type ReminderSettings,
} from './reminders/reminder-settings.ts';
import { checkSmsSettings, createSmsClient, smsSettings, type SmsSettings } from './reminders/sms-settings.ts';

/** What the handlers need besides their context: the clients of the providers. */
export type HandlerDependencies = ReminderDependencies & BubbleDependencies;

/** Settings of the handlers and their providers, which the worker adds to its own. */
export const handlerSettings = z.object({
  ...smsSettings.shape,
  ...reminderSettings.shape,
  ...bubbleSettings.shape,
});

type HandlerSettings = SmsSettings & ReminderSettings & BubbleSettings;

export function checkHandlerSettings(settings: HandlerSettings, context: z.RefinementCtx): void {
  checkSmsSettings(settings, context);
  checkReminderSettings(settings, context);
  checkBubbleSettings(settings, context);
}

export function createHandlerDependencies(settings: HandlerSettings): HandlerDependencies {
  return {
    sms: createSmsClient(settings),
    reminderRules: createReminderRules(settings),
    bubble: createBubbleClientOf(settings),
  };
}

type DefinitionOf<Name extends JobName> = Extract<(typeof catalog)[number], { name: Name }>;

/** One handler per job of the catalogue: a missing one does not compile. */
export const handlers: { [Name in JobName]: JobHandler<DefinitionOf<Name>, HandlerDependencies> } = {
  reminder_24h: handleSendReminder,
  pause_check_48h: handlePauseCheck,
  bubble_user_sync: handleBubbleUserSync,
};

/** The handler of a job by a name that came from a row; its payload is parsed by who calls it. */
export function findHandler(name: string): JobHandler<JobDefinition, HandlerDependencies> | undefined {
  return Object.hasOwn(handlers, name) ? handlers[name as JobName] : undefined;
}

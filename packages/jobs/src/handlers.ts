import type { JobDefinition, JobHandler } from '@outbox/core';
import { z } from 'zod';
import type { catalog, JobName } from './catalog.ts';
import {
  createGoliothDependencies,
  goliothSettings,
  type GoliothDependencies,
  type GoliothSettings,
} from './golioth-sync/golioth-settings.ts';
import { handleSyncDevices } from './golioth-sync/handler.ts';
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
export type HandlerDependencies = ReminderDependencies & GoliothDependencies;

/** Settings of the handlers and their providers, which the worker adds to its own. */
export const handlerSettings = z.object({ ...smsSettings.shape, ...reminderSettings.shape, ...goliothSettings.shape });

export function checkHandlerSettings(settings: SmsSettings & ReminderSettings, context: z.RefinementCtx): void {
  checkSmsSettings(settings, context);
  checkReminderSettings(settings, context);
}

export function createHandlerDependencies(
  settings: SmsSettings & ReminderSettings & GoliothSettings,
): HandlerDependencies {
  return {
    sms: createSmsClient(settings),
    reminderRules: createReminderRules(settings),
    ...createGoliothDependencies(settings),
  };
}

type DefinitionOf<Name extends JobName> = Extract<(typeof catalog)[number], { name: Name }>;

/** One handler per job of the catalogue: a missing one does not compile. */
export const handlers: { [Name in JobName]: JobHandler<DefinitionOf<Name>, HandlerDependencies> } = {
  reminder_24h: handleSendReminder,
  pause_check_48h: handlePauseCheck,
  golioth_device_sync: handleSyncDevices,
};

/** The handler of a job by a name that came from a row; its payload is parsed by who calls it. */
export function findHandler(name: string): JobHandler<JobDefinition, HandlerDependencies> | undefined {
  return Object.hasOwn(handlers, name) ? handlers[name as JobName] : undefined;
}

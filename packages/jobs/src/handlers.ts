import type { JobDefinition, JobHandler } from '@outbox/core';
import { z } from 'zod';
import { bubbleSettings, checkBubbleSettings, createBubbleClientOf } from './bubble-sync/bubble-settings.ts';
import { handleBubbleUserSync, type BubbleDependencies } from './bubble-sync/handler.ts';
import type { catalog, JobName } from './catalog.ts';
import type { FamilyName } from './families.ts';
import { checkGoogleSettings, createGoogle, googleSettings } from './gmb-sync/google-settings.ts';
import { GMB_LIMITS, handleGmbSync, type GmbDependencies } from './gmb-sync/handler.ts';
import {
  createGoliothDependencies,
  goliothSettings,
  type GoliothDependencies,
} from './golioth-sync/golioth-settings.ts';
import { handleSyncDevices } from './golioth-sync/handler.ts';
import { handlePauseCheck } from './pause-checks/handler.ts';
import { handleSendReminder, type ReminderDependencies } from './reminders/handler.ts';
import { checkReminderSettings, createReminderRules, reminderSettings } from './reminders/reminder-settings.ts';
import { checkSmsSettings, createSmsClient, smsSettings } from './reminders/sms-settings.ts';

/** What the handlers need besides their context: the clients of the providers. */
export type HandlerDependencies = ReminderDependencies & BubbleDependencies & GmbDependencies & GoliothDependencies;

/** Settings of the handlers and their providers, which the worker adds to its own. */
export const handlerSettings = z.object({
  ...smsSettings.shape,
  ...reminderSettings.shape,
  ...bubbleSettings.shape,
  ...googleSettings.shape,
  ...goliothSettings.shape,
});

export type HandlerSettings = z.output<typeof handlerSettings>;

/** What a family that is switched off would lack is nobody's concern. */
export function checkHandlerSettings(
  settings: HandlerSettings & { FAMILIES: readonly FamilyName[] },
  context: z.RefinementCtx,
): void {
  if (settings.FAMILIES.includes('reminders')) {
    checkSmsSettings(settings, context);
    checkReminderSettings(settings, context);
  }
  if (settings.FAMILIES.includes('bubble')) checkBubbleSettings(settings, context);
  if (settings.FAMILIES.includes('gmb')) checkGoogleSettings(settings, context);
}

export function createHandlerDependencies(settings: HandlerSettings): HandlerDependencies {
  return {
    sms: createSmsClient(settings),
    reminderRules: createReminderRules(settings),
    bubble: createBubbleClientOf(settings),
    google: createGoogle(settings),
    gmbLimits: GMB_LIMITS,
    ...createGoliothDependencies(settings),
  };
}

type DefinitionOf<Name extends JobName> = Extract<(typeof catalog)[number], { name: Name }>;

/** One handler per job of the catalogue: a missing one does not compile. */
export const handlers: { [Name in JobName]: JobHandler<DefinitionOf<Name>, HandlerDependencies> } = {
  reminder_24h: handleSendReminder,
  pause_check_48h: handlePauseCheck,
  bubble_user_sync: handleBubbleUserSync,
  gmb_sync: handleGmbSync,
  golioth_device_sync: handleSyncDevices,
};

/** The handler of a job by a name that came from a row; its payload is parsed by who calls it. */
export function findHandler(name: string): JobHandler<JobDefinition, HandlerDependencies> | undefined {
  return Object.hasOwn(handlers, name) ? handlers[name as JobName] : undefined;
}

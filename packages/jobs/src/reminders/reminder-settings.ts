import { envDuration, HOUR, MINUTE } from '@outbox/core';
import { z } from 'zod';
import { lengthMs, type QuietHours } from './quiet-hours.ts';

const TIME_RANGE = /^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$/;

/** `21:00-08:00`; gives minutes since midnight. */
const quietHours = z
  .string()
  .regex(TIME_RANGE, 'must look like 21:00-08:00')
  .transform((text) => {
    const [, ...numbers] = TIME_RANGE.exec(text) ?? [];
    const [fromHour = 0, fromMinute = 0, toHour = 0, toMinute = 0] = numbers.map(Number);
    return { from: fromHour * 60 + fromMinute, to: toHour * 60 + toMinute };
  })
  .refine(({ from, to }) => from !== to, 'must begin and end at different times');

/** When reminders may be sent. Spread `.shape` into a service's schema and add `.superRefine(checkReminderSettings)`. */
export const reminderSettings = z.object({
  REMINDER_TOO_LATE: envDuration(1 * MINUTE, 30 * 24 * HOUR)
    .default(24 * HOUR)
    .describe('A reminder that is later than this (an outage) texts nobody any more and is skipped, e.g. 24h'),
  QUIET_HOURS: quietHours
    .optional()
    .describe(
      "Reminders wait for the end of these hours in their auto sync's time zone, e.g. 21:00-08:00; blank: none",
    ),
});

export type ReminderSettings = z.output<typeof reminderSettings>;

/** A reminder that had to wait for the end of the quiet hours must not be too late then. */
export function checkReminderSettings(settings: ReminderSettings, context: z.RefinementCtx): void {
  const { QUIET_HOURS: quiet, REMINDER_TOO_LATE: tooLateMs } = settings;
  if (quiet === undefined || lengthMs(quiet) < tooLateMs) return;
  context.addIssue({
    code: 'custom',
    path: ['QUIET_HOURS'],
    message: 'must be shorter than REMINDER_TOO_LATE: what waited for their end would be too late',
    input: undefined,
  });
}

/** The settings as the handler takes them. */
export interface ReminderRules {
  tooLateMs: number;
  quietHours?: QuietHours | undefined;
}

export function createReminderRules(settings: ReminderSettings): ReminderRules {
  return { tooLateMs: settings.REMINDER_TOO_LATE, quietHours: settings.QUIET_HOURS };
}

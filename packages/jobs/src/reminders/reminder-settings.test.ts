import { HOUR, loadConfig } from '@outbox/core';
import { checkReminderSettings, createReminderRules, reminderSettings } from './reminder-settings.ts';

const load = (env: Record<string, string>) =>
  createReminderRules(loadConfig(reminderSettings.superRefine(checkReminderSettings), env));

test('by default a reminder is too late after 24 h, and no hour is quiet', () => {
  expect(load({})).toEqual({ tooLateMs: 24 * HOUR, quietHours: undefined });
});

test('both can be set', () => {
  expect(load({ REMINDER_TOO_LATE: '12h', QUIET_HOURS: '21:30-08:00' })).toEqual({
    tooLateMs: 12 * HOUR,
    quietHours: { from: 21.5 * 60, to: 8 * 60 },
  });
});

test.each(['21:00', '9:00-10:00', '24:00-08:00', '21:00-08:60', '21:00-08:00 UTC'])(
  'quiet hours that cannot be read are refused: %s',
  (hours) => expect(() => load({ QUIET_HOURS: hours })).toThrow('QUIET_HOURS: must look like 21:00-08:00'),
);

test('quiet hours that never end are refused', () => {
  expect(() => load({ QUIET_HOURS: '08:00-08:00' })).toThrow('must begin and end at different times');
});

test('quiet hours after which every reminder is too late are refused', () => {
  const quiet = { QUIET_HOURS: '21:00-08:00' };
  expect(() => load({ ...quiet, REMINDER_TOO_LATE: '11h' })).toThrow('must be shorter than REMINDER_TOO_LATE');
  expect(load({ ...quiet, REMINDER_TOO_LATE: '661m' })).toMatchObject({ tooLateMs: 661 * 60_000 });
});

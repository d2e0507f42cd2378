import { envInteger, SECOND } from '@outbox/core';
import { z } from 'zod';
import { createTwilioSmsClient, type SmsClient } from './sms-client.ts';

/** Settings of whoever sends texts. Spread `.shape` into a service's schema and add `.superRefine(checkSmsSettings)`. */
export const smsSettings = z.object({
  SMS_PROVIDER: z
    .enum(['simulator', 'twilio'], { error: 'must be simulator or twilio' })
    .default('simulator')
    .describe('Who sends texts: simulator (nobody receives any) or twilio'),
  SMS_SIMULATOR_URL: z
    .url({ protocol: /^https?$/, error: 'must look like http://127.0.0.1:4010' })
    .default('http://127.0.0.1:4010')
    .describe('Where the SMS simulator is'),
  TWILIO_ACCOUNT_SID: z
    .string()
    .regex(/^AC[0-9a-f]{32}$/i, 'must be AC and 32 hexadecimal digits')
    .optional()
    .describe('Twilio account, AC…'),
  TWILIO_AUTH_TOKEN: z.string().optional().describe('Auth token of that account'),
  TWILIO_FROM: z
    .string()
    .regex(/^\+[1-9]\d{6,14}$/, 'must be a phone number like +15558675310')
    .optional()
    .describe('Number that texts come from; or set TWILIO_MESSAGING_SERVICE_SID'),
  TWILIO_MESSAGING_SERVICE_SID: z
    .string()
    .regex(/^MG[0-9a-f]{32}$/i, 'must be MG and 32 hexadecimal digits')
    .optional()
    .describe('Messaging Service that picks the number; or set TWILIO_FROM'),
  SMS_TIMEOUT_MS: envInteger(100, 10 * SECOND)
    .default(10 * SECOND)
    .describe('Deadline of one call to the SMS provider, milliseconds'),
});

export type SmsSettings = z.output<typeof smsSettings>;

const NEEDED_FOR_TWILIO = ['TWILIO_ACCOUNT_SID', 'TWILIO_AUTH_TOKEN'] as const;

/** With `SMS_PROVIDER=twilio`: account, token, and exactly one of number and Messaging Service. */
export function checkSmsSettings(settings: SmsSettings, context: z.RefinementCtx): void {
  if (settings.SMS_PROVIDER !== 'twilio') return;
  const report = (variable: keyof SmsSettings, message: string) =>
    context.addIssue({ code: 'custom', path: [variable], message, input: undefined });

  for (const variable of NEEDED_FOR_TWILIO) {
    if (settings[variable] === undefined) report(variable, 'is missing: SMS_PROVIDER=twilio needs it');
  }
  const { TWILIO_FROM: from, TWILIO_MESSAGING_SERVICE_SID: service } = settings;
  if (from === undefined && service === undefined) {
    report('TWILIO_FROM', 'is missing: SMS_PROVIDER=twilio needs it, or TWILIO_MESSAGING_SERVICE_SID');
  }
  if (from !== undefined && service !== undefined) {
    report('TWILIO_FROM', 'and TWILIO_MESSAGING_SERVICE_SID are both set: keep one');
  }
}

/** The simulator lets any account in. The number is the valid sender of Twilio's test credentials. */
const SIMULATED_ACCOUNT = {
  accountSid: `AC${'0'.repeat(32)}`,
  authToken: 'simulator',
  from: '+15005550006',
};

/** Expects settings that passed `checkSmsSettings`. With `SMS_PROVIDER=simulator` no real credential is used. */
export function createSmsClient(settings: SmsSettings): SmsClient {
  const timeoutMs = settings.SMS_TIMEOUT_MS;
  if (settings.SMS_PROVIDER === 'simulator') {
    return createTwilioSmsClient({ ...SIMULATED_ACCOUNT, baseUrl: settings.SMS_SIMULATOR_URL, timeoutMs });
  }
  return createTwilioSmsClient({
    accountSid: settings.TWILIO_ACCOUNT_SID ?? '',
    authToken: settings.TWILIO_AUTH_TOKEN ?? '',
    from: settings.TWILIO_FROM,
    messagingServiceSid: settings.TWILIO_MESSAGING_SERVICE_SID,
    timeoutMs,
  });
}

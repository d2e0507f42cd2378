import { envInteger, SECOND } from '@outbox/core';
import { z } from 'zod';
import { createGoogleClient, type GoogleClient, type GoogleClientSettings } from './google-client.ts';

const address = z.url({ protocol: /^https?$/, error: 'must look like https://host' });

/** Settings of whoever calls Google. Spread `.shape` into a service's schema and add `.superRefine(checkGoogleSettings)`. */
export const googleSettings = z.object({
  GOOGLE_PROVIDER: z
    .enum(['simulator', 'google'], { error: 'must be simulator or google' })
    .default('simulator')
    .describe('Whose Business Profiles are synced: those of the simulator, or of google'),
  GOOGLE_SIMULATOR_URL: address.default('http://127.0.0.1:4010/google').describe('Where the Google simulator is'),
  GOOGLE_CLIENT_ID: z.string().optional().describe('OAuth client of the Cloud project that users have granted access'),
  GOOGLE_CLIENT_SECRET: z.string().optional().describe('Secret of that client'),
  GOOGLE_TOKEN_URL: address
    .default('https://oauth2.googleapis.com/token')
    .describe("Google's token endpoint, with GOOGLE_PROVIDER=google"),
  GOOGLE_ACCOUNT_MANAGEMENT_URL: address
    .default('https://mybusinessaccountmanagement.googleapis.com')
    .describe('Account Management API, with GOOGLE_PROVIDER=google'),
  GOOGLE_BUSINESS_INFORMATION_URL: address
    .default('https://mybusinessbusinessinformation.googleapis.com')
    .describe('Business Information API, with GOOGLE_PROVIDER=google'),
  GOOGLE_MY_BUSINESS_URL: address
    .default('https://mybusiness.googleapis.com')
    .describe('My Business API (reviews), with GOOGLE_PROVIDER=google'),
  GOOGLE_TIMEOUT_MS: envInteger(100, 30 * SECOND)
    .default(15 * SECOND)
    .describe('Deadline of one call to Google, milliseconds'),
});

export type GoogleSettings = z.output<typeof googleSettings>;

const NEEDED_FOR_GOOGLE = ['GOOGLE_CLIENT_ID', 'GOOGLE_CLIENT_SECRET'] as const;

/** With `GOOGLE_PROVIDER=google`: the client and its secret. */
export function checkGoogleSettings(settings: GoogleSettings, context: z.RefinementCtx): void {
  if (settings.GOOGLE_PROVIDER !== 'google') return;
  for (const variable of NEEDED_FOR_GOOGLE) {
    if (settings[variable] !== undefined) continue;
    const message = 'is missing: GOOGLE_PROVIDER=google needs it';
    context.addIssue({ code: 'custom', path: [variable], message, input: undefined });
  }
}

/** Expects settings that passed `checkGoogleSettings`. With `GOOGLE_PROVIDER=simulator` no real credential is used. */
export function createGoogle(settings: GoogleSettings): GoogleClient {
  const timeoutMs = settings.GOOGLE_TIMEOUT_MS;
  if (settings.GOOGLE_PROVIDER === 'simulator') {
    return createGoogleClient({ ...simulated(settings.GOOGLE_SIMULATOR_URL), timeoutMs });
  }
  return createGoogleClient({
    clientId: settings.GOOGLE_CLIENT_ID ?? '',
    clientSecret: settings.GOOGLE_CLIENT_SECRET ?? '',
    tokenUrl: settings.GOOGLE_TOKEN_URL,
    accountManagementUrl: settings.GOOGLE_ACCOUNT_MANAGEMENT_URL,
    businessInformationUrl: settings.GOOGLE_BUSINESS_INFORMATION_URL,
    myBusinessUrl: settings.GOOGLE_MY_BUSINESS_URL,
    timeoutMs,
  });
}

/** The simulator lets any client in, and serves all of Google's hosts under one address. */
export function simulated(url: string): Omit<GoogleClientSettings, 'timeoutMs'> {
  return {
    clientId: 'simulator',
    clientSecret: 'simulator',
    tokenUrl: `${url.replace(/\/$/, '')}/token`,
    accountManagementUrl: url,
    businessInformationUrl: url,
    myBusinessUrl: url,
  };
}

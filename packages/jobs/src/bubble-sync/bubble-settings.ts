import { envInteger, SECOND } from '@outbox/core';
import { z } from 'zod';
import { createBubbleClient, type BubbleClient } from './bubble-client.ts';

/** Settings of whoever calls Bubble. Spread `.shape` into a service's schema and add `.superRefine(checkBubbleSettings)`. */
export const bubbleSettings = z.object({
  BUBBLE_PROVIDER: z
    .enum(['simulator', 'bubble'], { error: 'must be simulator or bubble' })
    .default('simulator')
    .describe('Where users are copied to: simulator (no app gets any) or bubble'),
  BUBBLE_SIMULATOR_URL: z
    .url({ protocol: /^https?$/, error: 'must look like http://127.0.0.1:4010/bubble' })
    .default('http://127.0.0.1:4010/bubble')
    .describe('Where the Bubble simulator is'),
  BUBBLE_APP_URL: z
    .url({
      protocol: /^https$/,
      error: 'must look like https://app.bubbleapps.io or https://app.bubbleapps.io/version-test',
    })
    .refine((url) => !url.includes('/api/'), 'must end before /api/1.1')
    .optional()
    .describe('Bubble app, e.g. https://app.bubbleapps.io; its development version ends in /version-test'),
  BUBBLE_API_TOKEN: z.string().optional().describe("Token from the app's settings, API"),
  BUBBLE_DATA_TYPE: z
    .string()
    .regex(/^[a-z0-9_]+$/, 'must be lower case without spaces, as in addresses of the Data API')
    .default('user')
    .describe('Data type that holds users, as in addresses of the Data API'),
  BUBBLE_ID_FIELD: z
    .string()
    .default('external_id')
    .describe('Text field of that type which holds our id of the user, as the Data API shows it'),
  BUBBLE_EMAIL_FIELD: z.string().default('email').describe('Its email field, as the Data API shows it'),
  BUBBLE_TIMEOUT_MS: envInteger(100, 10 * SECOND)
    .default(10 * SECOND)
    .describe('Deadline of one call to Bubble, milliseconds'),
});

export type BubbleSettings = z.output<typeof bubbleSettings>;

const NEEDED_FOR_BUBBLE = ['BUBBLE_APP_URL', 'BUBBLE_API_TOKEN'] as const;

/** With `BUBBLE_PROVIDER=bubble`: the app and its token. */
export function checkBubbleSettings(settings: BubbleSettings, context: z.RefinementCtx): void {
  if (settings.BUBBLE_PROVIDER !== 'bubble') return;
  for (const variable of NEEDED_FOR_BUBBLE) {
    if (settings[variable] !== undefined) continue;
    const message = 'is missing: BUBBLE_PROVIDER=bubble needs it';
    context.addIssue({ code: 'custom', path: [variable], message, input: undefined });
  }
}

/** The simulator lets any token in. */
const SIMULATED_TOKEN = 'simulator';

/** Expects settings that passed `checkBubbleSettings`. With `BUBBLE_PROVIDER=simulator` no real credential is used. */
export function createBubbleClientOf(settings: BubbleSettings): BubbleClient {
  const isSimulated = settings.BUBBLE_PROVIDER === 'simulator';
  return createBubbleClient({
    appUrl: isSimulated ? settings.BUBBLE_SIMULATOR_URL : (settings.BUBBLE_APP_URL ?? ''),
    apiToken: isSimulated ? SIMULATED_TOKEN : (settings.BUBBLE_API_TOKEN ?? ''),
    dataType: settings.BUBBLE_DATA_TYPE,
    idField: settings.BUBBLE_ID_FIELD,
    emailField: settings.BUBBLE_EMAIL_FIELD,
    timeoutMs: settings.BUBBLE_TIMEOUT_MS,
  });
}

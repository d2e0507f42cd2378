import { envInteger, SECOND } from '@outbox/core';
import { z } from 'zod';
import { createGoliothClient, type GoliothClient } from './golioth-client.ts';

const httpUrl = (example: string) =>
  z.url({ protocol: /^https?$/, error: `must look like ${example}` }).transform((url) => url.replace(/\/+$/, ''));

/** Settings of whoever reads devices. Spread `.shape` into a service's schema. */
export const goliothSettings = z.object({
  GOLIOTH_PROVIDER: z
    .enum(['simulator', 'golioth'], { error: 'must be simulator or golioth' })
    .default('simulator')
    .describe('Where devices are read: simulator or golioth'),
  GOLIOTH_SIMULATOR_URL: httpUrl('http://127.0.0.1:4010/golioth')
    .default('http://127.0.0.1:4010/golioth')
    .describe('Where the Golioth simulator is'),
  GOLIOTH_API_URL: httpUrl('https://api.golioth.io')
    .default('https://api.golioth.io')
    .describe('Golioth Management API, without /v1'),
  GOLIOTH_API_KEY: z.string().optional().describe('API key of integrations that have none of their own'),
  GOLIOTH_TIMEOUT_MS: envInteger(100, 30 * SECOND)
    .default(10 * SECOND)
    .describe('Deadline of one call to Golioth, milliseconds'),
});

export type GoliothSettings = z.output<typeof goliothSettings>;

/** The client, and the key of integrations that have none. */
export interface GoliothDependencies {
  golioth: { client: GoliothClient; apiKey: string | undefined };
}

export function createGoliothDependencies(settings: GoliothSettings): GoliothDependencies {
  const baseUrl = settings.GOLIOTH_PROVIDER === 'simulator' ? settings.GOLIOTH_SIMULATOR_URL : settings.GOLIOTH_API_URL;
  const client = createGoliothClient({ baseUrl, timeoutMs: settings.GOLIOTH_TIMEOUT_MS });
  return { golioth: { client, apiKey: settings.GOLIOTH_API_KEY } };
}

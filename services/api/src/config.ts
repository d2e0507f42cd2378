import { envInteger, envPort, sharedSettings, withQueueBackend } from '@outbox/core';
import { familiesSetting } from '@outbox/jobs';
import { z } from 'zod';

/** One secret, or the new and the old one while it is being changed, separated by a comma. Errors never show them. */
function secrets(minLength: number, missing: string) {
  const message = `must be one or two values, separated by a comma, each of at least ${minLength} characters`;
  return z
    .string({ error: missing })
    .transform((text) => text.split(',').map((secret) => secret.trim()))
    .refine((list) => list.length <= 2 && list.every((secret) => secret.length >= minLength), message);
}

/** Settings of the API; `.env.example` is written from these descriptions. */
export const apiSettings = withQueueBackend(
  sharedSettings.extend({
    ...familiesSetting,
    PORT: envPort.default(4000).describe('Port of the API, the board, /healthz and /readyz'),
    HOST: z
      .string()
      .regex(/^[a-z0-9.:-]+$/i, 'must be an address or a host name such as 127.0.0.1')
      .default('0.0.0.0')
      .describe('Address to listen on; 127.0.0.1 keeps it to this machine'),
    SERVICE_KEYS: secrets(16, 'is missing: set the key that callers of /api present').describe(
      'Keys of the services that call /api: one, or two separated by a comma while one is being replaced',
    ),
    BOARD_USER: z
      .string()
      .trim()
      .max(64, 'must have at most 64 characters')
      .default('operator')
      .describe('Name to log in to the board with'),
    BOARD_PASSWORD: z
      .string({ error: 'is missing: set the password of the board' })
      .min(8, 'must have at least 8 characters')
      .describe('Password of the board, at least 8 characters'),
    SESSION_SECRETS: secrets(32, 'is missing: set a random text of at least 32 characters').describe(
      'Signs the session cookie: one secret, or the new and the old one separated by a comma; the first signs',
    ),
    PUBLIC_URL: z
      .url({ protocol: /^https?$/, error: 'must look like https://jobs.example.com' })
      .optional()
      .describe('Address at which people reach the board, e.g. https://jobs.example.com; https makes cookies secure'),
    TRUSTED_PROXIES: envInteger(0, 10)
      .default(0)
      .describe('Proxies in front whose X-Forwarded-For is believed; without it all callers behind one share a limit'),
    RATE_LIMIT_PER_MINUTE: envInteger(1, 1_000_000)
      .default(600)
      .describe('Most requests to /api a minute from one address, by each API process'),
  }),
);

export type ApiSettings = z.output<typeof apiSettings>;

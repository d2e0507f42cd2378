import { envInteger, envPort, sharedSettings, withQueueBackend } from '@outbox/core';
import { familiesSetting } from '@outbox/jobs';
import { z } from 'zod';

/** One secret, or the new and the old one while it is being changed, separated by a comma. Errors never show them. */
function secrets(minLength: number, missing?: string) {
  const message = `must be one or two values, separated by a comma, each of at least ${minLength} characters`;
  return z
    .string(missing)
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
    SUPABASE_JWT_SECRET: secrets(32)
      .optional()
      .describe(
        "Signs the project's older service keys, and its users' tokens unless SUPABASE_JWKS_URL is set: one secret, or two",
      ),
    SUPABASE_JWKS_URL: z
      .url({ protocol: /^https?$/, error: 'must look like https://project.supabase.co/auth/v1/.well-known/jwks.json' })
      .optional()
      .describe("Keys of the users' tokens, e.g. https://project.supabase.co/auth/v1/.well-known/jwks.json"),
    SUPABASE_JWT_ISSUER: z
      .string()
      .trim()
      .max(500, 'must have at most 500 characters')
      .optional()
      .describe("Who issues the users' tokens (iss), e.g. https://project.supabase.co/auth/v1"),
    SUPABASE_JWT_AUDIENCE: z
      .string()
      .trim()
      .max(500, 'must have at most 500 characters')
      .default('authenticated')
      .describe("Whom the users' tokens are for (aud)"),
    TRIGGER_SECRETS: secrets(16)
      .optional()
      .describe('Secrets that may call /functions/v1 as X-Trigger-Secret: one, or two while one is being replaced'),
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
).superRefine(checkTokenSettings);

/** Tokens of users can only be checked with both: what signs them, and who issues them. */
function checkTokenSettings(
  settings: { SUPABASE_JWT_SECRET?: unknown; SUPABASE_JWKS_URL?: unknown; SUPABASE_JWT_ISSUER?: unknown },
  context: z.RefinementCtx,
): void {
  const isSigned = settings.SUPABASE_JWT_SECRET !== undefined || settings.SUPABASE_JWKS_URL !== undefined;
  if (isSigned === (settings.SUPABASE_JWT_ISSUER !== undefined)) return;
  const message = isSigned
    ? 'is missing: set it to the "iss" of the tokens, e.g. https://project.supabase.co/auth/v1'
    : 'is set, but neither SUPABASE_JWKS_URL nor SUPABASE_JWT_SECRET is';
  context.addIssue({ code: 'custom', path: ['SUPABASE_JWT_ISSUER'], message, input: undefined });
}

export type ApiSettings = z.output<typeof apiSettings>;

import { MINUTE, SECOND } from '@outbox/core';
import {
  createRemoteJWKSet,
  errors,
  jwtVerify,
  type JWTPayload,
  type JWTVerifyOptions,
  type JWTVerifyResult,
} from 'jose';
import { z } from 'zod';
import { credentialOf, type Authenticate, type Caller } from './auth.ts';
import type { ApiSettings } from './config.ts';
import { ProblemError } from './problem.ts';

export type TokenSettings = Pick<
  ApiSettings,
  'SUPABASE_JWT_SECRET' | 'SUPABASE_JWKS_URL' | 'SUPABASE_JWT_ISSUER' | 'SUPABASE_JWT_AUDIENCE'
>;

/** The user a token speaks for, or undefined when it is none, has ended, or is not for us. */
export type ReadUserToken = (token: string) => Promise<Caller | undefined>;

/** The claims of a token that is genuine and for us, else undefined. */
type Verify = (token: string) => Promise<JWTPayload | undefined>;

/** Supabase's edge keeps the keys for ten minutes as well: twice that is what it asks to wait around a rotation. */
const KEYS_FOR_MS = 10 * MINUTE;
const KEYS_TIMEOUT_MS = 5 * SECOND;

const serviceClaims = z.object({ role: z.literal('service_role') });

const userClaims = z.object({
  sub: z.guid().transform((uuid) => uuid.toLowerCase()),
  role: z.literal('authenticated'),
  app_metadata: z.object({ role: z.unknown() }).optional().catch(undefined),
});

/**
 * Service keys of the older kind: tokens with `role = service_role`, signed with the project's secret. They name no
 * audience, and an issuer that is the same for all projects. The anon key, signed likewise, is nobody.
 */
export function serviceTokenAuthentication({ SUPABASE_JWT_SECRET: secrets = [] }: TokenSettings): Authenticate {
  const verify = verifyWithSecrets(secrets, {});
  return async (request) => {
    const token = credentialOf(request);
    const claims = token === undefined ? undefined : await verify(token);
    return serviceClaims.safeParse(claims).success ? { kind: 'service' } : undefined;
  };
}

export function userTokenAuthentication(readUserToken: ReadUserToken): Authenticate {
  return (request) => {
    const token = credentialOf(request);
    return token === undefined ? undefined : readUserToken(token);
  };
}

/**
 * Reads tokens of signed-in users. With `SUPABASE_JWKS_URL` they must be signed by one of the keys there, else with
 * `SUPABASE_JWT_SECRET`: the settings decide, never the token. Throws a problem when the keys cannot be had.
 */
export function createUserTokenReader(settings: TokenSettings): ReadUserToken {
  const { SUPABASE_JWKS_URL: url, SUPABASE_JWT_SECRET: secrets = [], SUPABASE_JWT_ISSUER: issuer } = settings;
  if (issuer === undefined) return () => Promise.resolve(undefined);
  const options = { issuer, audience: settings.SUPABASE_JWT_AUDIENCE, requiredClaims: ['exp'] };
  const verify = url === undefined ? verifyWithSecrets(secrets, options) : verifyWithKeysAt(url, options);
  return async (token) => toUser(await verify(token));
}

function toUser(claims: JWTPayload | undefined): Caller | undefined {
  const { data } = userClaims.safeParse(claims);
  return data && { kind: 'user', id: data.sub, isAdmin: data.app_metadata?.role === 'admin' };
}

/** Any of the secrets will do. */
function verifyWithSecrets(secrets: readonly string[], options: JWTVerifyOptions): Verify {
  const keys = secrets.map((secret) => new TextEncoder().encode(secret));
  return async (token) => {
    for (const key of keys) {
      const claims = await claimsOf(() => jwtVerify(token, key, { ...options, algorithms: ['HS256'] }));
      if (claims) return claims;
    }
    return undefined;
  };
}

function verifyWithKeysAt(url: string, options: JWTVerifyOptions): Verify {
  const keys = createRemoteJWKSet(new URL(url), { cacheMaxAge: KEYS_FOR_MS, timeoutDuration: KEYS_TIMEOUT_MS });
  return (token) => claimsOf(() => jwtVerify(token, keys, { ...options, algorithms: ['ES256', 'RS256'] }));
}

async function claimsOf(verify: () => Promise<JWTVerifyResult>): Promise<JWTPayload | undefined> {
  try {
    return (await verify()).payload;
  } catch (error) {
    if (isFaultOfToken(error)) return undefined;
    const detail = 'The keys that tokens are checked with cannot be had. Send the request again later.';
    throw new ProblemError('unavailable', detail, { cause: error, headers: { 'Retry-After': '5' } });
  }
}

/** Whatever jose says of the token itself. What it says of the keys, and what `fetch` says, is not the caller's fault. */
function isFaultOfToken(error: unknown): boolean {
  const keysAreAway = [errors.JWKSTimeout.code, errors.JWKSInvalid.code, errors.JOSEError.code];
  return error instanceof errors.JOSEError && !keysAreAway.includes(error.code);
}

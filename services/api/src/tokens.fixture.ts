import { randomUUID } from 'node:crypto';
import { SignJWT, type JWTHeaderParameters, type JWTPayload } from 'jose';
import { testSettings } from './test-app.ts';

export const ISSUER = 'https://project.supabase.test/auth/v1';
export const JWT_SECRET = 'the-secret-of-a-project-that-no-one-has';
export const NEXT_JWT_SECRET = 'the-secret-that-will-replace-it-one-day';

/** Settings of an installation whose users' tokens are signed with a secret. */
export const withSecrets: typeof testSettings = {
  ...testSettings,
  SUPABASE_JWT_SECRET: [JWT_SECRET, NEXT_JWT_SECRET],
  SUPABASE_JWT_ISSUER: ISSUER,
};

/** As the auth server issues them. */
export function userClaims(claims: JWTPayload = {}): JWTPayload {
  const now = Math.floor(Date.now() / 1000);
  return {
    iss: ISSUER,
    aud: 'authenticated',
    role: 'authenticated',
    sub: randomUUID(),
    iat: now,
    exp: now + 3600,
    app_metadata: { provider: 'email', providers: ['email'] },
    ...claims,
  };
}

/** As the project's keys of the older kind: ten years valid, for nobody in particular. */
export function keyClaims(role: string): JWTPayload {
  return { iss: 'supabase', ref: 'project', role, iat: 1_700_000_000, exp: 2_015_000_000 };
}

type Key = Parameters<SignJWT['sign']>[0];

export function sign(
  claims: JWTPayload,
  key: Key | string = JWT_SECRET,
  header: JWTHeaderParameters = { alg: 'HS256', typ: 'JWT' },
): Promise<string> {
  const signingKey = typeof key === 'string' ? new TextEncoder().encode(key) : key;
  return new SignJWT(claims).setProtectedHeader(header).sign(signingKey);
}

/** A token of the user with this id. */
export function tokenOf(sub: string, claims: JWTPayload = {}): Promise<string> {
  return sign(userClaims({ sub, ...claims }));
}

export function adminTokenOf(sub: string): Promise<string> {
  return tokenOf(sub, { app_metadata: { provider: 'email', role: 'admin' } });
}

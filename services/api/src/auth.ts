import { createHash, timingSafeEqual } from 'node:crypto';
import type { Actor } from '@outbox/core';
import type { Request, RequestHandler, Response } from 'express';
import { ProblemError } from './problem.ts';

/** Who is calling. A service may do everything. */
export type Caller = { kind: 'service' };

/** The caller behind a credential, or undefined when it is not one of ours. */
export type Authenticate = (credential: string) => Caller | undefined;

export function serviceKeyAuthentication(keys: readonly string[]): Authenticate {
  return (credential) => (isOneOf(credential, keys) ? { kind: 'service' } : undefined);
}

/**
 * Lets nobody pass whom none of `authentications` knows, and leaves the caller in `response.locals`. The credential is
 * the bearer token, else the header `apikey`.
 */
export function requireCaller(authentications: Authenticate[]): RequestHandler {
  return (request, response, next) => {
    const credential = credentialOf(request);
    const caller = credential && authentications.map((authenticate) => authenticate(credential)).find(Boolean);
    if (!caller) throw unauthorized();
    response.locals.caller = caller;
    next();
  };
}

/** What the audit keeps of the caller, who has been let in. Service keys have no names. */
export function actorOf(response: Response): Actor {
  const { kind } = response.locals.caller as Caller;
  return { name: kind, role: kind };
}

function credentialOf(request: Request): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(request.get('authorization') ?? '')?.[1] ?? request.get('apikey');
}

function unauthorized(): ProblemError {
  return new ProblemError('unauthorized', 'Send a service key as "Authorization: Bearer <key>" or as "apikey".', {
    headers: { 'WWW-Authenticate': 'Bearer realm="outbox"' },
  });
}

/** True when `given` is one of `secrets`. How long it takes tells nothing about them. */
export function isOneOf(given: string, secrets: readonly string[]): boolean {
  const digest = sha256(given);
  return secrets.map((secret) => timingSafeEqual(digest, sha256(secret))).includes(true);
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

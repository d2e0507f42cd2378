import type { Actor } from '@outbox/core';
import type { Request, RequestHandler, Response } from 'express';
import { ProblemError } from './problem.ts';
import { isOneOf } from './secrets.ts';

/**
 * Who is calling. A service and an admin may do everything below /api; a user sees and acts on its own rows; a trigger may
 * do nothing but start the work that is due (/functions/v1).
 */
export type Caller =
  | { kind: 'service' }
  | { kind: 'user'; /** The uuid of the person. */ id: string; isAdmin: boolean }
  | { kind: 'trigger' };

/** The caller behind what a request presents, or undefined when that is not what this one knows. */
export type Authenticate = (request: Request) => Caller | undefined | Promise<Caller | undefined>;

/** The bearer token, else the header `apikey`. */
export function credentialOf(request: Request): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(request.get('authorization') ?? '')?.[1] ?? request.get('apikey');
}

export function serviceKeyAuthentication(keys: readonly string[]): Authenticate {
  return (request) => {
    const credential = credentialOf(request);
    return credential !== undefined && isOneOf(credential, keys) ? { kind: 'service' } : undefined;
  };
}

/** The header `X-Trigger-Secret`. */
export function triggerSecretAuthentication(secrets: readonly string[]): Authenticate {
  return (request) => {
    const secret = request.get('x-trigger-secret');
    return secret !== undefined && isOneOf(secret, secrets) ? { kind: 'trigger' } : undefined;
  };
}

/**
 * Lets nobody pass whom none of `authentications` knows, and leaves the caller in `response.locals`. They are asked in
 * turn, so one that has to ask a server itself belongs at the end.
 */
export function requireCaller(authentications: readonly Authenticate[]): RequestHandler {
  return async (request, response, next) => {
    const caller = await findCaller(request, authentications);
    if (!caller) throw unauthorized();
    response.locals.caller = caller;
    next();
  };
}

async function findCaller(request: Request, authentications: readonly Authenticate[]): Promise<Caller | undefined> {
  for (const authenticate of authentications) {
    const caller = await authenticate(request);
    if (caller) return caller;
  }
  return undefined;
}

function unauthorized(): ProblemError {
  const detail =
    'Send a service key or the token of a user as "Authorization: Bearer …", or a service key as "apikey".';
  return new ProblemError('unauthorized', detail, { headers: { 'WWW-Authenticate': 'Bearer realm="outbox"' } });
}

/** Who has been let in. */
export function callerOf(response: Response): Caller {
  return response.locals.caller as Caller;
}

/** For what concerns everybody's rows at once. */
export const servicesAndAdminsOnly: RequestHandler = (_request, response, next) => {
  if (mayDoEverything(callerOf(response))) return next();
  throw new ProblemError('forbidden', 'Only services and admins may do this.');
};

/** For work that is started in everybody's name. */
export const servicesAndTriggersOnly: RequestHandler = (_request, response, next) => {
  if (callerOf(response).kind !== 'user') return next();
  throw new ProblemError('forbidden', 'Send a service key, or the trigger secret as "X-Trigger-Secret".');
};

/** The owner whose rows are all that this caller may see and act on; undefined when it may see and act on all. */
export function ownerSeenBy(caller: Caller): string | undefined {
  return caller.kind === 'user' && !caller.isAdmin ? caller.id : undefined;
}

function mayDoEverything(caller: Caller): boolean {
  return caller.kind === 'service' || (caller.kind === 'user' && caller.isAdmin);
}

/** What the audit keeps of the caller. Service keys have no names. */
export function actorOf(response: Response): Actor {
  const caller = callerOf(response);
  if (caller.kind !== 'user') return { name: caller.kind, role: caller.kind };
  return { name: caller.id, role: caller.isAdmin ? 'admin' : 'user' };
}

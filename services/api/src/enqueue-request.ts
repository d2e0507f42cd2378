import {
  enqueue,
  codeOf,
  SQLSTATE,
  type Enqueued,
  type EnqueueRequest,
  type JobDefinition,
  type Queryable,
} from '@outbox/core';
import type { Request } from 'express';
import { z } from 'zod';
import type { Caller } from './auth.ts';
import { fieldErrors, invalidRequest, isDataException, ProblemError } from './problem.ts';
import { objectRule } from './request-body.ts';
import { anyUuid, instant, maxAttempts, priority } from './fields.ts';

export interface Catalog {
  catalog: readonly JobDefinition[];
  findDefinition: (name: string) => JobDefinition | undefined;
}

export interface AskedJob {
  definition: JobDefinition;
  request: EnqueueRequest;
}

const enqueueBody = z.strictObject(
  {
    name: z.string('must be the name of a job'),
    payload: z.record(z.string(), z.unknown(), 'must be an object'),
    scheduledAt: instant.optional(),
    priority: priority.optional(),
    maxAttempts: maxAttempts.optional(),
    ownerId: anyUuid.optional(),
  },
  objectRule,
);

/** Printable ASCII, the space included. */
const IDEMPOTENCY_KEY = /^[\x20-\x7e]{1,200}$/;

/** As the W3C has it. Another one is not ours to refuse: the job then starts a trace of its own. */
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** What the request asks for; throws a problem that names every wrong field. */
export function parseEnqueue(request: Request, { catalog, findDefinition }: Catalog): AskedJob {
  const { name, payload, ...options } = enqueueBody.parse(request.body);
  const definition = findDefinition(name);
  if (!definition) {
    const names = catalog.map((known) => known.name).join(', ');
    throw invalidRequest([{ field: 'name', message: `is not a job of this installation, which has: ${names}` }]);
  }
  const parsed = parsePayload(definition, payload);
  const key = definition.key(parsed);
  const serialKey = definition.serialKey?.(parsed);
  const idempotencyKey = parseIdempotencyKey(request);
  const traceparent = TRACEPARENT.exec(request.get('traceparent') ?? '')?.[0];
  return { definition, request: { ...options, payload, key, serialKey, idempotencyKey, traceparent } };
}

/** Checks the payload as the worker will. The row keeps what the caller sent. */
function parsePayload(definition: JobDefinition, payload: unknown): unknown {
  const parsed = strict(definition.payload).safeParse(payload);
  if (!parsed.success) throw invalidRequest(fieldErrors(parsed.error, ['payload']));
  return parsed.data;
}

/** A plain object schema drops what it does not know; a caller who misspelt a field should hear of it. */
function strict(schema: z.ZodType): z.ZodType {
  return schema instanceof z.ZodObject && schema.def.catchall === undefined ? schema.strict() : schema;
}

function parseIdempotencyKey(request: Request): string | undefined {
  const key = request.get('idempotency-key');
  if (key === undefined || IDEMPOTENCY_KEY.test(key)) return key;
  throw invalidRequest([{ field: 'Idempotency-Key', message: 'must have 1 to 200 printable ASCII characters' }]);
}

/**
 * The job as this caller may ask for it. A user's job is the user's own, and of what is the user's: a job about somebody
 * else's things would act on them in nobody's name. Throws a problem when it is not.
 */
export async function inTheNameOf(
  db: Queryable,
  caller: Caller,
  { definition, request }: AskedJob,
): Promise<EnqueueRequest> {
  if (caller.kind !== 'user') return request;
  const { ownerId = caller.id } = request;
  if (caller.isAdmin) return { ...request, ownerId };
  if (ownerId !== caller.id) throw new ProblemError('forbidden', 'Users add jobs of their own: leave ownerId out.');
  if (definition.ownerCheck === undefined) {
    throw new ProblemError('forbidden', `Only services and admins may add the job ${definition.name}.`);
  }
  if (!(await isOwn(db, definition.ownerCheck, caller.id, request.payload))) {
    throw new ProblemError('not-found', 'There is nothing of yours that this payload names.');
  }
  return { ...request, ownerId };
}

/** `check` comes from a definition, never from a request. */
async function isOwn(db: Queryable, check: string, userId: string, payload: unknown): Promise<boolean> {
  const sql = /* sql */ `select ${check}(user_id => $1, payload => $2) as "isOwn"`;
  const { rows } = await db.query<{ isOwn: boolean }>(sql, [userId, JSON.stringify(payload)]);
  return rows[0]?.isOwn === true;
}

/** Enqueues, and throws a problem for what is wrong with this installation or this payload. */
export async function enqueueOrExplain(db: Queryable, name: string, request: EnqueueRequest): Promise<Enqueued> {
  try {
    return await enqueue(db, name, request);
  } catch (error) {
    if (codeOf(error) === SQLSTATE.unknownJob) {
      const detail = `The database does not know the job ${name} yet: run "npm run migrate".`;
      throw new ProblemError('unavailable', detail, { cause: error, headers: { 'Retry-After': '30' } });
    }
    if (isDataException(error)) {
      throw invalidRequest([{ field: 'payload', message: 'holds characters that the database cannot store' }]);
    }
    throw error;
  }
}

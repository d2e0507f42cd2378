import {
  actOnJob,
  codeOf,
  enqueue,
  RefusedError,
  resolveJobId,
  SQLSTATE,
  type Enqueued,
  type EnqueueRequest,
  type JobAction,
  type JobDefinition,
  type Pool,
  type Queryable,
} from '@outbox/core';
import express, { type Request, type Router } from 'express';
import { z } from 'zod';
import { actorOf } from '../auth.ts';
import { findJob, listAttempts, listEffects, type JobRecord } from '../job-store.ts';
import { fieldErrors, invalidRequest, isDataException, ProblemError } from '../problem.ts';
import { objectRule, optionalBody, sentence } from '../request-body.ts';

export interface JobRoutesDependencies {
  db: Pool;
  catalog: readonly JobDefinition[];
  findDefinition: (name: string) => JobDefinition | undefined;
}

/** `POST /api/jobs`, `GET /api/jobs/:id` and what can be done to one job, for callers who have been let in. */
export function jobRoutes(dependencies: JobRoutesDependencies): Router {
  const { db } = dependencies;
  const router = express.Router();

  router.post('/api/jobs', async (request, response) => {
    const { name, request: job } = parseEnqueue(request, dependencies);
    const { id, isNew } = await enqueueOrExplain(db, name, job);
    const record = await requireJob(db, id);
    response
      .status(isNew ? 201 : 200)
      .location(`/api/jobs/${record.id}`)
      .json({ job: record, duplicate: !isNew });
  });

  router.get('/api/jobs/:id', async (request, response) => {
    const outboxId = await resolveJobId(db, parseId(request.params.id));
    const job = await requireJob(db, outboxId);
    const attempts = await listAttempts(db, job.outboxId);
    const effects = await listEffects(db, job.outboxId);
    response.json({ job, attempts, effects });
  });

  for (const [path, parse] of Object.entries(ACTIONS)) {
    router.post(`/api/jobs/:id/${path}`, async (request, response) => {
      const uuid = parseId(request.params.id);
      const action = parse(optionalBody(request));
      const { outboxId } = await requireJob(db, await resolveJobId(db, uuid));
      await actOnJob(db, actorOf(response), outboxId, action).catch(namingTheOther(db));
      response.json({ job: await requireJob(db, outboxId) });
    });
  }

  return router;
}

const MAX_PRIORITY = 1_000_000;
const MAX_ATTEMPTS = 100;
const priorityRule = `must be a whole number from -${MAX_PRIORITY} to ${MAX_PRIORITY}`;
const attemptsRule = `must be a whole number from 1 to ${MAX_ATTEMPTS}`;
const dateRule = 'must be a date and time with its offset, such as 2030-01-31T09:00:00Z';

/** Ids of any version: owners and imported rows bring their own. */
const anyUuid = z.guid('must be a uuid');

const instant = z.iso.datetime({ offset: true, error: dateRule }).transform((text) => new Date(text));

const noBody = z.strictObject({}, objectRule);
const cancelBody = z.strictObject({ reason: sentence(200).default('cancelled') }, objectRule);
const rescheduleBody = z.strictObject({ scheduledAt: instant }, objectRule);

/** By the end of their path: what the body of a request asks for. */
const ACTIONS: Record<string, (body: unknown) => JobAction> = {
  cancel: (body) => ({ kind: 'cancel', ...cancelBody.parse(body) }),
  retry: (body) => ({ kind: 'retry', ...noBody.parse(body) }),
  reschedule: (body) => ({ kind: 'reschedule', ...rescheduleBody.parse(body) }),
  'run-now': (body) => ({ kind: 'run-now', ...noBody.parse(body) }),
};

const enqueueBody = z.strictObject(
  {
    name: z.string('must be the name of a job'),
    payload: z.record(z.string(), z.unknown(), 'must be an object'),
    scheduledAt: instant.optional(),
    priority: z.int(priorityRule).min(-MAX_PRIORITY, priorityRule).max(MAX_PRIORITY, priorityRule).optional(),
    maxAttempts: z.int(attemptsRule).min(1, attemptsRule).max(MAX_ATTEMPTS, attemptsRule).optional(),
    ownerId: anyUuid.optional(),
  },
  objectRule,
);

/** Printable ASCII, the space included. */
const IDEMPOTENCY_KEY = /^[\x20-\x7e]{1,200}$/;

/** As the W3C has it. Another one is not ours to refuse: the job then starts a trace of its own. */
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** What the request asks for; throws a problem that names every wrong field. */
function parseEnqueue(
  request: Request,
  { catalog, findDefinition }: JobRoutesDependencies,
): { name: string; request: EnqueueRequest } {
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
  return { name, request: { ...options, payload, key, serialKey, idempotencyKey, traceparent } };
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

function parseId(text: string): string {
  const id = anyUuid.safeParse(text);
  if (!id.success) throw invalidRequest([{ field: 'id', message: 'must be a uuid' }]);
  return id.data;
}

async function enqueueOrExplain(db: Queryable, name: string, request: EnqueueRequest): Promise<Enqueued> {
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

async function requireJob(db: Queryable, outboxId: string | undefined): Promise<JobRecord> {
  const job = outboxId && (await findJob(db, outboxId));
  if (!job) throw new ProblemError('not-found', 'There is no job with this id; finished ones are removed in time.');
  return job;
}

/** Callers know jobs by their uuid: the one that holds the key is named by it. */
function namingTheOther(db: Queryable): (error: unknown) => Promise<never> {
  return async (error) => {
    if (!(error instanceof RefusedError) || error.otherJobId === undefined) throw error;
    const other = await findJob(db, error.otherJobId);
    const detail = `Its key is taken: job ${other?.id ?? error.otherJobId} does the same. Wait for that one, or cancel it.`;
    throw new ProblemError('conflict', detail, { cause: error });
  };
}

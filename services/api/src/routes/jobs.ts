import { actOnJob, RefusedError, resolveJobId, type JobAction, type Pool, type Queryable } from '@outbox/core';
import express, { type Router } from 'express';
import { z } from 'zod';
import { actorOf, callerOf, ownerSeenBy } from '../auth.ts';
import { enqueueOrExplain, inTheNameOf, parseEnqueue, type Catalog } from '../enqueue-request.ts';
import { findJob, listAttempts, listEffects, type JobRecord } from '../job-store.ts';
import { ProblemError } from '../problem.ts';
import { objectRule, optionalBody, sentence } from '../request-body.ts';
import { instant, parseId } from '../fields.ts';

export interface JobRoutesDependencies extends Catalog {
  db: Pool;
}

/**
 * `POST /api/jobs`, `GET /api/jobs/:id` and what can be done to one job, for callers who have been let in. To a user who is
 * no admin, somebody else's job is one that does not exist.
 */
export function jobRoutes({ db, ...catalog }: JobRoutesDependencies): Router {
  const router = express.Router();

  router.post('/api/jobs', async (request, response) => {
    const caller = callerOf(response);
    const asked = parseEnqueue(request, catalog);
    const job = await inTheNameOf(db, caller, asked);
    const { id, isNew } = await enqueueOrExplain(db, asked.definition.name, job);
    const record = await requireJob(db, id);
    if (!isSeenBy(ownerSeenBy(caller), record)) {
      throw new ProblemError('conflict', 'A job of somebody else does the same, and has not ended yet.');
    }
    response
      .status(isNew ? 201 : 200)
      .location(`/api/jobs/${record.id}`)
      .json({ job: record, duplicate: !isNew });
  });

  router.get('/api/jobs/:id', async (request, response) => {
    const outboxId = await resolveJobId(db, parseId(request.params.id));
    const job = await requireJob(db, outboxId, ownerSeenBy(callerOf(response)));
    const attempts = await listAttempts(db, job.outboxId);
    const effects = await listEffects(db, job.outboxId);
    response.json({ job, attempts, effects });
  });

  for (const [path, parse] of Object.entries(ACTIONS)) {
    router.post(`/api/jobs/:id/${path}`, async (request, response) => {
      const owner = ownerSeenBy(callerOf(response));
      const uuid = parseId(request.params.id);
      const action = parse(optionalBody(request));
      const { outboxId } = await requireJob(db, await resolveJobId(db, uuid), owner);
      await actOnJob(db, actorOf(response), outboxId, action).catch(namingTheOther(db, owner));
      response.json({ job: await requireJob(db, outboxId) });
    });
  }

  return router;
}

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

/** The job with this number; with `owner`, only if it is this owner's. */
async function requireJob(db: Queryable, outboxId: string | undefined, owner?: string): Promise<JobRecord> {
  const job = outboxId && (await findJob(db, outboxId));
  if (job && isSeenBy(owner, job)) return job;
  throw new ProblemError('not-found', 'There is no job with this id; finished ones are removed in time.');
}

function isSeenBy(owner: string | undefined, { ownerId }: JobRecord): boolean {
  return owner === undefined || owner === ownerId;
}

/** Callers know jobs by their uuid: the one that holds the key is named by it, unless it is none of the caller's business. */
function namingTheOther(db: Queryable, owner: string | undefined): (error: unknown) => Promise<never> {
  return async (error) => {
    if (!(error instanceof RefusedError) || error.otherJobId === undefined) throw error;
    const other = await findJob(db, error.otherJobId);
    const name = other && !isSeenBy(owner, other) ? 'of somebody else' : (other?.id ?? error.otherJobId);
    const detail = `Its key is taken: job ${name} does the same. Wait for that one, or cancel it.`;
    throw new ProblemError('conflict', detail, { cause: error });
  };
}

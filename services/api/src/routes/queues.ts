import { pauseQueue, resumeQueue, type Pool, type Queryable } from '@outbox/core';
import express, { type Router } from 'express';
import { z } from 'zod';
import { actorOf } from '../auth.ts';
import { ProblemError } from '../problem.ts';
import { objectRule, optionalBody, sentence } from '../request-body.ts';

/** What a person decided about a queue. */
interface QueueRecord {
  name: string;
  pausedAt: Date | null;
  pausedBy: string | null;
  reason: string | null;
}

/** `GET /api/queues`, and pausing and resuming one. The claim asks the same table: a paused queue starts no job. */
export function queueRoutes({ db }: { db: Pool }): Router {
  const router = express.Router();

  router.get('/api/queues', async (_request, response) => {
    response.json({ queues: await listQueues(db) });
  });

  router.post('/api/queues/:name/pause', async (request, response) => {
    const { reason } = pauseBody.parse(optionalBody(request));
    const { name } = await requireQueue(db, request.params.name);
    const changed = await pauseQueue(db, actorOf(response), name, reason);
    response.json({ queue: await requireQueue(db, name), changed });
  });

  router.post('/api/queues/:name/resume', async (request, response) => {
    resumeBody.parse(optionalBody(request));
    const { name } = await requireQueue(db, request.params.name);
    const changed = await resumeQueue(db, actorOf(response), name);
    response.json({ queue: await requireQueue(db, name), changed });
  });

  return router;
}

const pauseBody = z.strictObject({ reason: sentence(200).optional() }, objectRule);
const resumeBody = z.strictObject({}, objectRule);

const LIST_QUEUES = /* sql */ `
  select q.name, q.paused_at as "pausedAt", q.paused_by as "pausedBy", q.reason
  from outbox.queues q
  order by q.name
  limit 1000`;

async function listQueues(db: Queryable): Promise<QueueRecord[]> {
  return (await db.query<QueueRecord & Record<string, unknown>>(LIST_QUEUES)).rows;
}

async function requireQueue(db: Queryable, name: string): Promise<QueueRecord> {
  const queue = (await listQueues(db)).find((known) => known.name === name);
  if (!queue) throw new ProblemError('not-found', `There is no queue named "${name}".`);
  return queue;
}

import { resolveEffect, type Pool } from '@outbox/core';
import express, { type Router } from 'express';
import { z } from 'zod';
import { actorOf } from '../auth.ts';
import { EFFECT_STATES, findEffect, listAllEffects } from '../effect-store.ts';
import { findJob } from '../job-store.ts';
import { invalidRequest } from '../problem.ts';
import { objectRule, sentence } from '../request-body.ts';
import { pageSize } from '../fields.ts';

/** `GET /api/effects` and `POST /api/effects/:id/resolve`: the door to calls that nobody could tell the outcome of. */
export function effectRoutes({ db }: { db: Pool }): Router {
  const router = express.Router();

  router.get('/api/effects', async (request, response) => {
    response.json({ effects: await listAllEffects(db, listQuery.parse(request.query)) });
  });

  router.post('/api/effects/:id/resolve', async (request, response) => {
    const id = parseEffectId(request.params.id);
    const resolution = resolveBody.parse(request.body);
    const enqueued = await resolveEffect(db, actorOf(response), id, resolution);
    const job = enqueued === undefined ? undefined : await findJob(db, enqueued);
    response.json({ effect: await findEffect(db, id), job: job ?? null });
  });

  return router;
}

const MAX_EFFECTS = 500;

const listQuery = z.strictObject({
  state: z.enum(EFFECT_STATES, `must be one of ${EFFECT_STATES.join(', ')}`).optional(),
  limit: pageSize(MAX_EFFECTS).default(100),
});

const resolveBody = z.strictObject(
  {
    outcome: z.enum(['confirmed', 'rejected'], 'must be confirmed (it did happen) or rejected (it did not)'),
    /** How it is known. */
    note: sentence(1000),
  },
  objectRule,
);

function parseEffectId(text: string): string {
  if (/^\d{1,18}$/.test(text)) return text;
  throw invalidRequest([{ field: 'id', message: 'must be the number of an effect' }]);
}

import { codeOf, type Pool } from '@outbox/core';
import express, { type Request, type RequestHandler, type Router } from 'express';
import { z } from 'zod';
import { callerOf, servicesAndAdminsOnly, type Caller } from '../auth.ts';
import { anyUuid, instant, priority } from '../fields.ts';
import { invalidRequest, ProblemError } from '../problem.ts';
import { objectRule } from '../request-body.ts';

/**
 * What callers of the Business Profile queue before us know, with its bodies: `POST` and `GET /api/gmb/enqueue-sync`, and
 * `GET /api/diagnostics/sync-queue` for services and admins. Without the family there is nothing here.
 */
export function gmbRoutes({ db, isInstalled }: { db: Pool; isInstalled: boolean }): Router {
  const router = express.Router();
  if (!isInstalled) {
    router.use(['/api/gmb', '/api/diagnostics/sync-queue'], notInstalled);
    return router;
  }

  router.post('/api/gmb/enqueue-sync', async (request, response) => {
    const asked = enqueueBody.parse(parseBody(request));
    const { id, status, duplicate } = await enqueueSync(db, ownerOf(callerOf(response)), asked);
    if (duplicate) {
      response.json({ message: 'Sync job already queued for this account', job_id: id, status, duplicate });
      return;
    }
    const { rows } = await db.query<Record<string, unknown>>(READ_JOB, [id]);
    response.status(201).json({ message: 'Sync job enqueued successfully', job: rows[0] });
  });

  router.get('/api/gmb/enqueue-sync', async (request, response) => {
    const userId = whoseQueue(request, callerOf(response));
    const { rows } = await db.query<{ queue: unknown }>('select gmb.user_queue($1) as queue', [userId]);
    response.json(rows[0]?.queue);
  });

  router.get('/api/diagnostics/sync-queue', servicesAndAdminsOnly, async (_request, response) => {
    const { rows } = await db.query<{ found: unknown }>('select gmb.queue_diagnostics() as found');
    response.json(rows[0]?.found);
  });

  return router;
}

/** The paths whose callers send JSON under any name or none. */
export const GMB_PATHS = ['/api/gmb'];

const notInstalled: RequestHandler = () => {
  throw new ProblemError('not-found', 'Google Business Profile syncs are switched off here (FAMILIES).');
};

const typeRule = 'must be full or incremental';

const enqueueBody = z.strictObject(
  {
    accountId: anyUuid,
    syncType: z.enum(['full', 'incremental'], typeRule),
    priority: priority.nullish(),
    scheduled_at: instant.nullish(),
  },
  objectRule,
);

/** `express.text` has read the body, whatever it is called. */
function parseBody(request: Request): unknown {
  try {
    return JSON.parse(String(request.body)) as unknown;
  } catch (error) {
    throw new ProblemError('malformed-json', 'Send the request as a JSON object.', { cause: error });
  }
}

/** A user syncs own accounts; a service and an admin, any. */
function ownerOf(caller: Caller): string | null {
  return caller.kind === 'user' && !caller.isAdmin ? caller.id : null;
}

function whoseQueue(request: Request, caller: Caller): string {
  if (caller.kind === 'user') return caller.id;
  const userId = anyUuid.safeParse(request.query.user_id);
  if (userId.success) return userId.data;
  throw invalidRequest([{ field: 'user_id', message: 'must be the uuid of the user whose queue a service asks for' }]);
}

interface Enqueued {
  id: string;
  status: string;
  duplicate: boolean;
}

const ENQUEUE = /* sql */ `
  select e.id, e.status, e.duplicate
  from gmb.enqueue_sync(
    account_id => $1, user_id => $2, sync_type => $3, priority => $4, scheduled_at => $5
  ) e`;

/** A statement of its own: the one that adds a row does not see it. */
const READ_JOB = /* sql */ `
  select q.id, q.account_id, a.account_name, q.sync_type, q.status, q.priority, q.created_at
  from gmb.sync_queue q
  join gmb.account_source a on a.id = q.account_id
  where q.id = $1`;

/** No account of that user: to whom it does not belong, it does not exist. */
const UNKNOWN_ACCOUNT = 'OB010';

async function enqueueSync(
  db: Pool,
  userId: string | null,
  { accountId, syncType, priority: wanted, scheduled_at: at }: z.output<typeof enqueueBody>,
): Promise<Enqueued> {
  try {
    const values = [accountId, userId, syncType, wanted ?? null, at ?? null];
    const { rows } = await db.query<Enqueued & Record<string, unknown>>(ENQUEUE, values);
    if (!rows[0]) throw new Error(`Account ${accountId} was not answered.`);
    return rows[0];
  } catch (error) {
    if (codeOf(error) !== UNKNOWN_ACCOUNT) throw error;
    throw new ProblemError('not-found', 'There is no account of yours with this accountId.', { cause: error });
  }
}

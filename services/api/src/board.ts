import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import type { JobDefinition } from '@outbox/core';
import type { Queue } from 'bullmq';
import express, { type Express, type RequestHandler, type Router } from 'express';
import { BOARD_PATH } from './login.ts';
import { ProblemError } from './problem.ts';
import { isRead } from './same-origin.ts';

const POLL_SECONDS = 5;

/**
 * Bull Board over `queues`, to look at only: what somebody changed in BullMQ behind the outbox's back would be undone,
 * or the board would show what is not so. Who may see it is decided before.
 */
export function boardRoutes(queues: readonly Queue[], catalog: readonly JobDefinition[]): Router {
  const adapter = new ExpressAdapter().setBasePath(BOARD_PATH);
  createBullBoard({
    queues: queues.map(
      (queue) => new BullMQAdapter(queue, { readOnlyMode: true, description: describe(queue, catalog) }),
    ),
    serverAdapter: adapter,
    options: {
      uiConfig: {
        boardTitle: 'Outbox Bridge',
        hideDocsLink: true,
        sortQueues: true,
        jobDetails: { defaultTab: 'Data' },
        pollingInterval: { forceInterval: POLL_SECONDS },
        miscLinks: [{ text: 'Log out', url: '/admin/logout' }],
      },
    },
  });
  // It is an express app of its own, though its type does not say so, and names its software unless told not to.
  const board = (adapter.getRouter() as Express).disable('x-powered-by');
  return express.Router().use(BOARD_PATH, readOnly, board);
}

/** What the jobs of this queue do. */
function describe(queue: Queue, catalog: readonly JobDefinition[]): string {
  const jobs = catalog.filter((definition) => definition.queue === queue.name);
  return jobs.map(({ name, description }) => `${name}: ${description}`).join('; ');
}

/** Bull Board itself answers 200 to "pause all" of queues that are all read-only. */
const readOnly: RequestHandler = (request, _response, next) => {
  if (isRead(request)) return next();
  throw new ProblemError('method-not-allowed', 'The board is to look at only.', { headers: { Allow: 'GET, HEAD' } });
};

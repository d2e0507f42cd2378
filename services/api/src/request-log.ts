import { randomUUID } from 'node:crypto';
import type { Logger } from '@outbox/core';
import type { Request, RequestHandler } from 'express';

/** Asked for every few seconds by machines and by every open board. */
const ROUTINE = /^\/(healthz|readyz|admin\/queues\/(static|api)\/)/;

/**
 * One line per request: no body, no query, no headers. Gives each request an id, which is also in the answer
 * (`X-Request-Id`, and `instance` of a problem). Routine requests that succeed are written at level debug.
 */
export function logRequests(log: Logger): RequestHandler {
  return (request, response, next) => {
    const startedAt = performance.now();
    const requestId = randomUUID();
    response.set('X-Request-Id', requestId);
    response.once('close', () => {
      const { statusCode: status, writableFinished } = response;
      const level = status < 400 && ROUTINE.test(request.originalUrl) ? 'debug' : 'info';
      const durationMs = Math.round(performance.now() - startedAt);
      const fields = { requestId, method: request.method, route: routeOf(request), status, durationMs };
      log[level](writableFinished ? fields : { ...fields, aborted: true }, 'request');
    });
    next();
  };
}

/** The pattern of the route that answered, e.g. `/api/jobs/:id`; without one, the path that was asked for. */
function routeOf(request: Request): string {
  const route: unknown = request.route;
  const pattern = typeof route === 'object' && route !== null && 'path' in route ? route.path : undefined;
  const path = request.originalUrl.replace(/\?.*$/s, '');
  return typeof pattern === 'string' && !path.startsWith('/admin/queues') ? pattern : path;
}

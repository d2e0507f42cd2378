import { createServer, type Server } from 'node:http';
import express, { type RequestHandler, type Router } from 'express';
import { listen } from './listen.ts';
import { codeOf } from './postgres.ts';

/** Name → undefined when fine, else what is wrong in a few words. */
export type Checks = Record<string, () => Promise<string | undefined>>;

/**
 * `/readyz` runs the checks and answers 503 with their names when one fails. `/healthz` does so with `liveness`, for what
 * only a restart mends: never a dependency, for a database that is away is not brought back by it. Mounted by the API,
 * served alone by bridge and worker.
 */
export function healthRoutes(checks: Checks, liveness: Checks = {}): Router {
  const router = express.Router();
  router.get('/healthz', answerWith(liveness, { fine: 'ok', else: 'not ok' }));
  router.get('/readyz', answerWith(checks, { fine: 'ready', else: 'not ready' }));
  return router;
}

function answerWith(checks: Checks, words: { fine: string; else: string }): RequestHandler {
  return async (_request, response) => {
    const names = Object.keys(checks);
    const problems = await Promise.all(names.map((name) => runCheck(checks[name])));
    const failed = Object.fromEntries(names.flatMap((name, at) => (problems[at] ? [[name, problems[at]]] : [])));
    if (Object.keys(failed).length === 0) response.json({ status: words.fine });
    else response.status(503).json({ status: words.else, failed });
  };
}

async function runCheck(check: Checks[string] | undefined): Promise<string | undefined> {
  try {
    return await check?.();
  } catch (error) {
    return codeOf(error) || 'does not answer';
  }
}

export async function startHealthServer(port: number, checks: Checks, liveness: Checks = {}): Promise<Server> {
  const app = express().disable('x-powered-by').use(healthRoutes(checks, liveness));
  return listen(createServer(app), { port, setting: 'HEALTH_PORT' });
}

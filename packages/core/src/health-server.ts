import { createServer, type Server } from 'node:http';
import express, { type Router } from 'express';
import { listen } from './listen.ts';
import { codeOf } from './postgres.ts';

/** Name → undefined when fine, else what is wrong in a few words. */
export type Checks = Record<string, () => Promise<string | undefined>>;

/**
 * `/healthz` says the process is alive and tests nothing else; `/readyz` runs the checks and answers 503 with their
 * names when one fails. Mounted by the API, served alone by bridge and worker.
 */
export function healthRoutes(checks: Checks): Router {
  const router = express.Router();
  router.get('/healthz', (_request, response) => void response.json({ status: 'ok' }));
  router.get('/readyz', async (_request, response) => {
    const names = Object.keys(checks);
    const problems = await Promise.all(names.map((name) => runCheck(checks[name])));
    const failed = Object.fromEntries(names.flatMap((name, at) => (problems[at] ? [[name, problems[at]]] : [])));
    const ready = Object.keys(failed).length === 0;
    response.status(ready ? 200 : 503).json(ready ? { status: 'ready' } : { status: 'not ready', failed });
  });
  return router;
}

async function runCheck(check: Checks[string] | undefined): Promise<string | undefined> {
  try {
    return await check?.();
  } catch (error) {
    return codeOf(error) || 'does not answer';
  }
}

export async function startHealthServer(port: number, checks: Checks): Promise<Server> {
  const app = express().disable('x-powered-by').use(healthRoutes(checks));
  return listen(createServer(app), { port, setting: 'HEALTH_PORT' });
}

import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express, { type Router } from 'express';
import { UnavailableError } from './errors.ts';
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
  return listen(createServer(app), port, 'HEALTH_PORT');
}

/** Listens, or throws `UnavailableError` naming the port and its setting. */
export async function listen(server: Server, port: number, setting: string): Promise<Server> {
  server.listen(port);
  try {
    await once(server, 'listening');
  } catch (error) {
    const reason = codeOf(error) === 'EADDRINUSE' ? 'is already in use' : `cannot be opened (${codeOf(error)})`;
    throw new UnavailableError(`Port ${port} ${reason}. Free it, or set ${setting} to another.`, { cause: error });
  }
  return server;
}

export function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

import { once } from 'node:events';
import { createServer } from 'node:http';
import { createPool, portOf, type Pool } from '@outbox/core';
import { catalog, families, findDefinition } from '@outbox/jobs';
import { createApp, type AppDependencies } from './app.ts';

export const SERVICE_KEY = 'sb_secret_test-service-key';
export const NEXT_SERVICE_KEY = 'sb_secret_the-next-service-key';
export const BOARD_PASSWORD = 'correct horse battery';
export const SESSION_SECRET = 'a-secret-that-only-the-tests-may-know';
export const OLD_SESSION_SECRET = 'the-secret-that-was-in-use-yesterday';

export const testSettings: AppDependencies['settings'] = {
  SERVICE_KEYS: [SERVICE_KEY, NEXT_SERVICE_KEY],
  SUPABASE_JWT_SECRET: undefined,
  SUPABASE_JWKS_URL: undefined,
  SUPABASE_JWT_ISSUER: undefined,
  SUPABASE_JWT_AUDIENCE: 'authenticated',
  TRIGGER_SECRETS: undefined,
  BOARD_USER: 'operator',
  BOARD_PASSWORD,
  SESSION_SECRETS: [SESSION_SECRET, OLD_SESSION_SECRET],
  PUBLIC_URL: undefined,
  RATE_LIMIT_PER_MINUTE: 10_000,
  TRUSTED_PROXIES: 0,
};

export interface TestApp {
  url: string;
  stop: () => Promise<void>;
}

/** Serves the app for tests, on a free port, with the real catalogue and no queues unless told otherwise. */
export async function startTestApp(
  dependencies: Partial<AppDependencies> & Pick<AppDependencies, 'db' | 'log'>,
): Promise<TestApp> {
  const { db } = dependencies;
  const checks = { postgres: async () => void (await db.query('select 1')) };
  const app = createApp({
    catalog,
    findDefinition,
    families: families.map(({ name }) => name),
    queues: [],
    settings: testSettings,
    checks,
    ...dependencies,
  });
  const server = createServer(app).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = async () => {
    server.close();
    server.closeAllConnections();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${portOf(server)}`, stop };
}

/** As in production: the role of the API, and nothing waits long for a lock. */
export function createApiPool(url: string): Pool {
  return createPool({
    url,
    role: 'outbox_api',
    applicationName: 'outbox api test',
    max: 5,
    lockTimeoutMs: 200,
    onError: () => undefined,
  });
}

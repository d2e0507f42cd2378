import { createPool, type Pool } from '@outbox/core';

/** Names the migrated template database. DATABASE_URL and REDIS_URL say where the servers are. */
export const TEMPLATE_VARIABLE = 'OUTBOX_TEST_TEMPLATE';

/** Works on the server itself, not on a test's database, with one connection that is closed afterwards. */
export async function onServer<T>(url: string, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = createPool({ url, applicationName: 'outbox test server', max: 1, onError: () => undefined });
  try {
    return await work(pool);
  } finally {
    await pool.end();
  }
}

/** `url` with another database. */
export function urlOfDatabase(url: string, name: string): string {
  const other = new URL(url);
  other.pathname = `/${name}`;
  return other.toString();
}

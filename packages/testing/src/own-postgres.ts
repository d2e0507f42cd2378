import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SECOND } from '@outbox/core';
import { startLocalPostgres } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { onServer } from './test-server.ts';
import { waitFor } from './wait-for.ts';

const RECOVERED_WITHIN_MS = 30 * SECOND;

export interface OwnPostgres {
  /** Of a migrated database, as superuser. */
  readonly url: string;
  /** From now on, a commit that does not wait for the disk is not on it, unless one after it waits. Once per test. */
  holdLog(): Promise<void>;
  /** As after a power cut: whatever is not on the disk is forgotten. Resolves when the server is back, at the same place. */
  crash(): Promise<void>;
  /** Stops it and removes its data. */
  stop(): Promise<void>;
}

/** A PostgreSQL for one test alone, which may crash it. */
export async function startOwnPostgres(): Promise<OwnPostgres> {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-own-postgres-'));
  const server = await startLocalPostgres({ dataDir: folder });
  const { url } = server;
  let heldPid: number | undefined;
  const stop = async () => {
    if (heldPid !== undefined) process.kill(heldPid, 'SIGCONT');
    await server.stop();
    await rm(server.dataDir, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await migrate({ databaseUrl: url, instance: 'test', backend: 'redis', timings: 'production', host: true });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url,
    holdLog: async () => {
      heldPid = await logWriterOf(url);
      process.kill(heldPid, 'SIGSTOP');
    },
    crash: async () => {
      // When one of its processes is killed, PostgreSQL ends all others, and begins anew from what is on the disk.
      const pid = heldPid ?? (await logWriterOf(url));
      process.kill(pid, 'SIGKILL');
      heldPid = undefined;
      await waitFor(async () => expectOther(pid, await logWriterOf(url)), { timeoutMs: RECOVERED_WITHIN_MS });
    },
    stop,
  };
}

/** The process that writes the log for commits that do not wait for it. */
function logWriterOf(url: string): Promise<number> {
  return onServer(url, async (pool) => {
    const { rows } = await pool.query<{ pid: number }>(
      `select pid from pg_stat_activity where backend_type = 'walwriter'`,
    );
    if (!rows[0]) throw new Error('PostgreSQL has no process that writes its log.');
    return rows[0].pid;
  });
}

function expectOther(before: number, now: number): void {
  if (now === before) throw new Error('PostgreSQL has not begun anew.');
}

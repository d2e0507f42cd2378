import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findRedisServer, startLocalRedis } from '@outbox/local';

export interface OwnRedis {
  readonly url: string;
  /** Stops it and removes its data. May be called again. */
  stop(): Promise<void>;
}

/** A Redis for one test alone, which may fill it, make it a replica, or stop it. */
export async function startOwnRedis(): Promise<OwnRedis> {
  const binary = await findRedisServer();
  if (binary === undefined) throw new Error('This test needs a Redis of its own: run it with "npm test".');
  const folder = await mkdtemp(join(tmpdir(), 'outbox-own-redis-'));
  const server = await startLocalRedis({ binary, dataDir: folder, persistent: false });
  let stopped: Promise<void> | undefined;
  const stop = () => (stopped ??= server.stop().then(() => rm(folder, { recursive: true, force: true })));
  return { url: server.url, stop };
}

import { fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { MINUTE, SECOND } from '@outbox/core';
import { waitFor } from '@outbox/testing';

const PEERS = join(import.meta.dirname, '../../peers');

/** Some peers need a newer Node.js than the product does: the benchmarks' own package brings one. */
const NEWER_NODE = join(import.meta.dirname, '../../node_modules/node/bin/node');

/** A process of a peer: `peers/<file>` with the arguments in its environment. */
export interface Peer {
  readonly pid: number | undefined;
  /** Jobs that it said are done, since it was started. */
  readonly done: number;
  stop(): Promise<void>;
}

/** Starts it and waits until it says that it is ready. Its Node.js is ours unless it `needsNewerNode`. */
export async function startPeer(
  file: string,
  env: Record<string, string>,
  { needsNewerNode = false } = {},
): Promise<Peer> {
  if (needsNewerNode && !existsSync(NEWER_NODE)) throw new Error(`${NEWER_NODE} is missing: npm ci --prefix bench`);
  const child = fork(join(PEERS, file), {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    ...(needsNewerNode && { execPath: NEWER_NODE }),
  });
  const state = { ready: false, done: 0, ended: false };
  child.on('message', (message: { ready?: true; done?: number }) => {
    state.ready ||= message.ready === true;
    state.done = message.done ?? state.done;
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  void exited.then(() => (state.ended = true));
  await waitFor(
    () => {
      if (!state.ready && !state.ended) throw new Error(`${file} is not ready.`);
    },
    { timeoutMs: 30 * SECOND },
  );
  if (state.ended) throw new Error(`${file} ended before it was ready.`);
  return {
    pid: child.pid,
    get done() {
      return state.done;
    },
    stop: async () => {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 10 * SECOND);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** Resolves when `isDone` does. */
export async function until(isDone: () => boolean | Promise<boolean>): Promise<void> {
  await waitFor(
    async () => {
      if (!(await isDone())) throw new Error('Some jobs are not done.');
    },
    // Looking costs the database something, and at most this much is added to seconds.
    { timeoutMs: 10 * MINUTE, intervalMs: 50 },
  );
}

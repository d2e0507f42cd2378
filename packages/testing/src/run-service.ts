import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { SECOND } from '@outbox/core';
import { freePort } from '@outbox/local';

const REPOSITORY = join(import.meta.dirname, '../../..');
const READY_TIMEOUT_MS = 30 * SECOND;
const POLL_MS = 25;

export type ServiceName = 'bridge' | 'worker' | 'api';

/** Which setting holds the port that answers /readyz. */
const PORT_SETTING: Record<ServiceName, string> = { bridge: 'HEALTH_PORT', worker: 'HEALTH_PORT', api: 'PORT' };

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface RunningService {
  readonly pid: number;
  /** Of its HTTP server: /readyz, and the API's routes. */
  readonly url: string;
  /** Lines so far; both go on growing. */
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
  /** Resolves when the process has ended, however it did. */
  readonly exited: Promise<Exit>;
  /** Sends the signal, SIGTERM unless told otherwise, and waits for the end. May be called again. */
  kill(signal?: NodeJS.Signals): Promise<Exit>;
}

/** The service ended before it was ready. */
export class ServiceExitedError extends Error {
  readonly exit: Exit;
  readonly stderr: string;

  constructor(name: ServiceName, exit: Exit, stderr: string) {
    super(`${name} ended with ${exit.signal ?? `exit code ${exit.code}`} before it was ready:\n${stderr}`);
    this.name = 'ServiceExitedError';
    this.exit = exit;
    this.stderr = stderr;
  }
}

/**
 * Starts a built service as a process of its own, as production does, and waits until it is ready. It gets `env` and
 * PATH, nothing else of ours, and a free port unless `env` names one. Throws `ServiceExitedError` when it ends first.
 * A service that a test does not stop is killed and fails that test.
 */
export async function startService(name: ServiceName, env: Record<string, string>): Promise<RunningService> {
  const portSetting = PORT_SETTING[name];
  const port = env[portSetting] ?? String(await freePort());
  const child = spawn(process.execPath, [join(REPOSITORY, 'services', name, 'dist/main.js')], {
    env: { PATH: process.env.PATH, ...env, [portSetting]: port },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const service = follow(name, child, `http://127.0.0.1:${port}`);
  await untilReady(name, service);
  return service;
}

function follow(name: ServiceName, child: ChildProcess, url: string): RunningService {
  const { pid, stdout, stderr } = child;
  if (pid === undefined || stdout === null || stderr === null) throw new Error(`${name} cannot be started`);
  const exited = new Promise<Exit>((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
  globalThis.outboxStartedServices?.set(pid, name);
  child.once('exit', () => globalThis.outboxStartedServices?.delete(pid));
  const kill = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return exited;
  };
  return { pid, url, stdout: linesOf(stdout), stderr: linesOf(stderr), exited, kill };
}

function linesOf(stream: Readable): string[] {
  const lines: string[] = [];
  createInterface({ input: stream }).on('line', (line) => lines.push(line));
  return lines;
}

async function untilReady(name: ServiceName, service: RunningService): Promise<void> {
  const state: { exit?: Exit } = {};
  void service.exited.then((exit) => (state.exit = exit));
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (!(await isReady(service.url))) {
    if (state.exit) throw new ServiceExitedError(name, state.exit, service.stderr.join('\n'));
    if (Date.now() > deadline) {
      await service.kill('SIGKILL');
      throw new Error(`${name} is not ready after ${READY_TIMEOUT_MS} ms:\n${outputOf(service)}`);
    }
    await sleep(POLL_MS);
  }
}

function outputOf({ stdout, stderr }: RunningService): string {
  return [...stdout, ...stderr].join('\n');
}

async function isReady(url: string): Promise<boolean> {
  const answer = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(2 * SECOND) }).catch(() => undefined);
  await answer?.body?.cancel();
  return answer?.status === 200;
}

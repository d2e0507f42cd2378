import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { SECOND } from '@outbox/core';

const READY_WITHIN_MS = 30 * SECOND;
const LOOK_EVERY_MS = 50;

/** A service that does not end within this time after SIGTERM is killed. */
const STOP_WITHIN_MS = 15 * SECOND;

export interface ServiceOptions {
  name: string;
  main: string;
  env: Record<string, string>;
  /** Of its HTTP server; ready when /readyz (or /healthz) answers 200. */
  readyUrl: string;
  logFile: string;
}

/**
 * A process of the product, in a process group of its own: Ctrl-C reaches `npm start` alone, which then stops everything
 * in order. The channel between the two tells the service when `npm start` was killed.
 */
export class ServiceProcess {
  readonly name: string;
  readonly #options: ServiceOptions;
  readonly #child: ChildProcess;
  #exit: string | undefined;

  constructor(options: ServiceOptions) {
    this.name = options.name;
    this.#options = options;
    this.#child = spawn(process.execPath, [options.main], {
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: true,
    });
    const log = createWriteStream(options.logFile, { flags: 'w' });
    this.#child.stdout?.pipe(log, { end: false });
    this.#child.stderr?.pipe(log, { end: false });
    this.#child.once('exit', (code, signal) => (this.#exit = signal ?? `exit code ${code}`));
  }

  /** Throws with the last words of its log when it ends first. */
  async ready(): Promise<void> {
    const deadline = Date.now() + READY_WITHIN_MS;
    while (!(await isUp(this.#options.readyUrl))) {
      if (this.#exit !== undefined || Date.now() > deadline) throw await this.#failure('did not start');
      await wait(LOOK_EVERY_MS);
    }
  }

  /** Rejects when the service ends without being asked to. */
  async watch(stopping: AbortSignal): Promise<never> {
    if (this.#exit === undefined) await once(this.#child, 'exit');
    if (stopping.aborted) return new Promise(() => undefined);
    throw await this.#failure('ended');
  }

  async stop(): Promise<void> {
    if (this.#exit !== undefined) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    const killer = setTimeout(() => this.kill(), STOP_WITHIN_MS);
    await exited;
    clearTimeout(killer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async #failure(what: string): Promise<Error> {
    const log = await readFile(this.#options.logFile, 'utf8').catch(() => '');
    const lastWords = log.trim().split('\n').slice(-5).join('\n');
    return new Error(`The ${this.name} ${what} (${this.#exit ?? 'not ready'}).\n${lastWords}`);
  }
}

async function isUp(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(2 * SECOND) }).catch(() => undefined);
  await response?.body?.cancel();
  return response?.status === 200;
}

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { SECOND } from '@outbox/core';

const REPOSITORY = join(import.meta.dirname, '../..');
const PRELOAD = join(import.meta.dirname, '../preload/chaos.mjs');

/** Between an end and the next start, as an orchestrator would wait. */
const RESTART_AFTER_MS = 300;

/** A service that has not ended by then after SIGTERM is killed, as an orchestrator would. */
const STOP_WITHIN_MS = 20 * SECOND;

const LOOK_EVERY_MS = 50;

export type Role = 'bridge' | 'worker' | 'api';

export interface ServiceSpec {
  /** Such as `worker-2`. */
  name: string;
  role: Role;
  env: Record<string, string>;
  /** Answers 200 when it is ready. */
  readyUrl: string;
  logFile: string;
}

/** What the preload of a service understands. */
type Order = { killAt: string | null } | { skewMs: number };

/** One service as a process of its own, started again whenever it ends, until it is stopped for good. */
export class Supervisor {
  readonly spec: ServiceSpec;
  /** Ends of its process so far that nobody had asked for. */
  crashes = 0;
  #child: ChildProcess | undefined;
  #stopped = false;
  #skewMs = 0;

  constructor(spec: ServiceSpec) {
    this.spec = spec;
  }

  get name(): string {
    return this.spec.name;
  }

  async start(): Promise<void> {
    if (this.#stopped) return;
    // A file and not a pipe: it must not depend on us to be read.
    const log = await open(this.spec.logFile, 'a');
    const child = spawn(process.execPath, ['--import', PRELOAD, this.#main], {
      env: { PATH: process.env.PATH, ...this.spec.env },
      stdio: ['ignore', log.fd, log.fd, 'ipc'],
      // A group of its own: Ctrl-C is for us, and we stop everything in order.
      detached: true,
    });
    await log.close();
    this.#child = child;
    child.on('error', () => undefined);
    child.once('exit', () => void this.#restart());
    if (this.#skewMs !== 0) this.#order({ skewMs: this.#skewMs });
  }

  async ready(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!(await isReady(this.spec.readyUrl))) {
      if (Date.now() > deadline) throw new Error(`${this.name} is not ready; see ${this.spec.logFile}`);
      await wait(LOOK_EVERY_MS);
    }
  }

  /** SIGKILL, or the signal named; it is started again. */
  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    this.#child?.kill(signal);
  }

  /**
   * Its process kills itself at the next time it reaches `step`. Resolves with true when it has, with false when it did
   * not within `timeoutMs` or ended otherwise.
   */
  async killAt(step: string, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    const child = this.#child;
    if (!child?.connected) return false;
    this.#order({ killAt: step });
    const ended = once(child, 'exit').then(([, how]) => how === 'SIGKILL');
    const tired = wait(timeoutMs, false, { signal, ref: false }).catch(() => false);
    const hit = await Promise.race([ended, tired]);
    if (!hit) this.#order({ killAt: null });
    return hit;
  }

  /** Its clock is wrong by so much, also after a restart, until it is set to 0. */
  skew(ms: number): void {
    this.#skewMs = ms;
    this.#order({ skewMs: ms });
  }

  /** SIGTERM and a new process, waited for. */
  async restart(): Promise<void> {
    const child = this.#child;
    if (child && !hasEnded(child)) {
      const killer = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS);
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
      clearTimeout(killer);
    }
    await this.ready(30 * SECOND);
  }

  /** For good. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const child = this.#child;
    if (!child || hasEnded(child)) return;
    const ended = once(child, 'exit');
    const killer = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS);
    child.kill('SIGTERM');
    await ended;
    clearTimeout(killer);
  }

  get #main(): string {
    return join(REPOSITORY, 'services', this.spec.role, 'dist/main.js');
  }

  async #restart(): Promise<void> {
    if (this.#stopped) return;
    this.crashes += 1;
    await wait(RESTART_AFTER_MS, undefined, { ref: false });
    await this.start();
  }

  #order(order: Order): void {
    const child = this.#child;
    if (child?.connected) child.send(order, () => undefined);
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function isReady(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(2 * SECOND) }).catch(() => undefined);
  await response?.body?.cancel();
  return response?.status === 200;
}

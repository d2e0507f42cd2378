import { appendFile, cp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { MINUTE, SECOND, UnavailableError } from '@outbox/core';
import {
  findRedisServer,
  startLocalPostgres,
  startLocalRedis,
  type LocalPostgres,
  type LocalRedis,
} from '@outbox/local';

/** A time in which a server was not to be reached, epoch milliseconds; `until` is Infinity while it lasts. */
export interface Outage {
  from: number;
  until: number;
}

/** What connections need to be established again after a server came back. */
const SETTLE_MS = 1 * SECOND;

/** True when the time from `from` to `until` has nothing of an outage in it. */
export function wasUp(outages: Outage[], from: number, until: number): boolean {
  return !outages.some((outage) => outage.from <= until && from <= outage.until + SETTLE_MS);
}

const RETRY_MS = 100;
const START_WITHIN_MS = 1 * MINUTE;

/** The port must stay the same; a server that was killed may leave processes that keep the data for a moment. */
async function untilStarted<T extends { port: number; stop: () => Promise<void> }>(
  port: number | undefined,
  start: () => Promise<T>,
): Promise<T> {
  const deadline = Date.now() + START_WITHIN_MS;
  for (;;) {
    try {
      const server = await start();
      if (port === undefined || server.port === port) return server;
      await server.stop();
    } catch (error) {
      if (!(error instanceof UnavailableError) || Date.now() > deadline) throw error;
    }
    await wait(RETRY_MS);
  }
}

/** No fsync: the machine does not crash here, processes do. What they wrote is kept by the kernel, so recovery is whole. */
const POSTGRES_SETTINGS = { fsync: 'off', full_page_writes: 'on', synchronous_commit: 'on', max_connections: '200' };

/** A private PostgreSQL that can be restarted and killed. */
export class PostgresServer {
  readonly outages: Outage[] = [];
  readonly #dataDir: string;
  readonly #logFile: string;
  #server: LocalPostgres | undefined;

  /** `logFile` receives what it has to say: a start of its own begins a new log each time. */
  constructor(dataDir: string, logFile: string) {
    this.#dataDir = dataDir;
    this.#logFile = logFile;
  }

  get url(): string {
    return this.#running.url;
  }

  get pid(): number {
    return this.#running.pid;
  }

  async start(): Promise<void> {
    const port = this.#server?.port;
    this.#server = await untilStarted(port, () =>
      startLocalPostgres({
        dataDir: this.#dataDir,
        settings: POSTGRES_SETTINGS,
        ...(port === undefined ? {} : { port }),
      }),
    );
  }

  /** SIGINT is the fast shutdown; SIGQUIT and SIGKILL leave recovery to the start, which comes after `downMs`. */
  async restart(signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL', downMs: number): Promise<void> {
    await this.during(async () => {
      process.kill(this.pid, signal);
      await this.stop();
      await wait(downMs);
      await this.start();
    });
  }

  /** Notes that the server was not to be reached while `work` was under way. */
  async during(work: () => Promise<void>): Promise<void> {
    const outage = { from: Date.now(), until: Infinity };
    this.outages.push(outage);
    await work();
    outage.until = Date.now();
  }

  async stop(): Promise<void> {
    if (!this.#server) return;
    await this.#server.stop();
    const words = await readFile(join(this.#server.dataDir, 'postgres.log'), 'utf8').catch(() => '');
    await appendFile(this.#logFile, words);
  }

  /** The data may be elsewhere than it was asked for. */
  async remove(): Promise<void> {
    if (this.#server) await rm(this.#server.dataDir, { recursive: true, force: true });
  }

  get #running(): LocalPostgres {
    if (!this.#server) throw new Error('PostgreSQL was not started');
    return this.#server;
  }
}

/** A private Redis that can be killed, and come back with all of its data, older data, or none. */
export class RedisServer {
  readonly #dataDir: string;
  #binary: string | undefined;
  #server: LocalRedis | undefined;

  constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  get url(): string {
    if (!this.#server) throw new Error('Redis was not started');
    return this.#server.url;
  }

  async start(): Promise<void> {
    const binary = (this.#binary ??= await findRedisServer());
    if (!binary) throw new UnavailableError('No redis-server on this machine. Install Redis (or Valkey) 6.2 or newer.');
    const port = this.#server?.port;
    this.#server = await untilStarted(port, () =>
      startLocalRedis({ binary, dataDir: this.#dataDir, persistent: true, ...(port === undefined ? {} : { port }) }),
    );
  }

  /** kill -9, then `meanwhile` (its files may be changed), then it is there again. */
  async killAndRestart(meanwhile: () => Promise<void>): Promise<void> {
    if (!this.#server) return;
    process.kill(this.#server.pid, 'SIGKILL');
    await this.#server.stop();
    await meanwhile();
    await this.start();
  }

  /** Forgets what was written to disk. Only while it is down. */
  async wipe(): Promise<void> {
    await rm(this.#appendOnly, { recursive: true, force: true });
  }

  /** Saves a copy of what is on disk now, and returns how to put it back while Redis is down. */
  async saveCopy(name: string): Promise<() => Promise<void>> {
    const copy = join(this.#dataDir, `copy-${name}`);
    await cp(this.#appendOnly, copy, { recursive: true });
    return async () => {
      await this.wipe();
      await cp(copy, this.#appendOnly, { recursive: true });
      await rm(copy, { recursive: true });
    };
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
  }

  async remove(): Promise<void> {
    await rm(this.#dataDir, { recursive: true, force: true });
  }

  get #appendOnly(): string {
    return join(this.#dataDir, 'appendonlydir');
  }
}

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { z } from 'zod';
import { SECOND } from './durations.ts';
import type { Logger } from './logger.ts';
import type { Queryable } from './postgres.ts';
import { Repeater } from './repeater.ts';

const BEAT_EVERY_MS = 15 * SECOND;

/** A process that has not been heard of for so long is gone, or cannot reach Postgres. */
export const SILENT_AFTER_MS = 60 * SECOND;

export type ServiceKind = 'api' | 'bridge' | 'worker';

/** A name that no other process has, before or after this one. It tells a person where to look. */
export function createProcessId(): string {
  return `${hostname()}:${process.pid}:${randomUUID().slice(0, 8)}`;
}

const BEAT = /* sql */ `
  insert into outbox.services (id, service, version)
  values ($1, $2, $3)
  on conflict (id) do update set seen_at = clock_timestamp()`;

/** Who has died is looked into for a day. Any process forgets it then; two that do so at once share the rows. */
const FORGET_SILENT = /* sql */ `
  delete from outbox.services s
  where s.id in (
    select o.id
    from outbox.services o
    where o.seen_at < clock_timestamp() - interval '1 day'
    limit 100
    for update skip locked
  )`;

const SIGN_OFF = /* sql */ `delete from outbox.services s where s.id = $1`;

export interface HeartbeatOptions {
  db: Queryable;
  service: ServiceKind;
  /** Of `createProcessId`. */
  id: string;
  log: Logger;
  /** Shorter in tests. */
  everyMs?: number;
}

/**
 * Says in `outbox.services` that this process lives, every 15 s. One that stops takes its row along; the row of one that
 * died stays and falls silent. While Postgres is away nothing is said, and nothing else is disturbed.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #repeater: Repeater;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    const { log, everyMs = BEAT_EVERY_MS } = options;
    this.#repeater = new Repeater({ everyMs, log, failure: 'no sign of life given', work: () => this.#beat() });
  }

  /** Resolves after the first beat, also when it failed. */
  async start(): Promise<void> {
    await this.#repeater.start();
  }

  async stop(): Promise<void> {
    await this.#repeater.stop();
    await this.#options.db.query(SIGN_OFF, [this.#options.id]);
  }

  async #beat(): Promise<void> {
    const { db, service, id } = this.#options;
    await db.query(BEAT, [id, service, VERSION]);
    await db.query(FORGET_SILENT);
  }
}

/** Packages and services are released together, under one version. */
const VERSION = z
  .object({ version: z.string() })
  .parse(JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))).version;

import { MINUTE, SECOND, type Logger, type Memory, type Pool, type Queryable, type QueueBackend } from '@outbox/core';
import { unpublish, type Published } from './unpublish.ts';

/** Tells enqueue how far ahead rows count as near. */
export async function writePublishWindow(db: Queryable, windowMs: number): Promise<void> {
  await db.query(
    /* sql */ `
    update outbox.meta set publish_window = $1 * interval '1 ms'
    where publish_window <> $1 * interval '1 ms'`,
    [windowMs],
  );
}

const READ_WINDOW = /* sql */ `
  select extract(epoch from publish_window)::float8 * 1000 as "windowMs" from outbox.meta limit 1`;

const BATCH = 1_000;

/** Rows that are ready, and have come to lie beyond the window: they wait until it reaches them again. */
const PUT_FAR = /* sql */ `
  update outbox.ready r
  set far = true
  from outbox.meta m
  where m.only_row and not r.far and r.scheduled_at > now() + m.publish_window`;

/** The farthest first: they are needed last. */
const FIND_BEYOND = /* sql */ `
  select j.id, j.generation
  from outbox.jobs j, outbox.meta m
  where m.only_row
    and j.finished_at is null
    and j.state = 'published'
    and j.scheduled_at > now() + m.publish_window
  order by j.scheduled_at desc, j.id desc
  limit ${BATCH}`;

/** Fractions of maxmemory. A full Redis refuses even to hand out work, so there is room left above the first. */
const HIGH = 0.8;
const LOW = 0.6;

/** The window is not made smaller than this, as long as nobody configures a smaller one. */
const SMALLEST_WINDOW_MS = 1 * MINUTE;

/** After it has shrunk the window grows once a minute, and after every relapse it waits twice as long, up to an hour. */
const GROW_AFTER_MS = 1 * MINUTE;
const LONGEST_GROW_AFTER_MS = 60 * MINUTE;

/** Most batches of one round: the next looks at the memory again. */
const BATCHES_PER_ROUND = 10;

export interface PublishWindowOptions {
  pool: Pool;
  backend: QueueBackend;
  /** PUBLISH_WINDOW. */
  configuredMs: number;
  growAfterMs?: number;
  log: Logger;
}

/**
 * Keeps room in the queue backend: above 80 % of its memory nothing is published, and each round halves the window and takes
 * published rows beyond it back; below 60 % the window doubles, up to the configured one. Rows beyond the window wait in
 * Postgres. A backend without a limit keeps the configured window.
 */
export class PublishWindow {
  /** Why nothing is published now; undefined when there is room. */
  problem: string | undefined;
  readonly #options: PublishWindowOptions;
  readonly #firstGrowAfterMs: number;
  #growAfterMs: number;
  #growAt = 0;

  constructor(options: PublishWindowOptions) {
    this.#options = options;
    this.#firstGrowAfterMs = options.growAfterMs ?? GROW_AFTER_MS;
    this.#growAfterMs = this.#firstGrowAfterMs;
  }

  /** Another bridge, or our earlier life, may have made the window smaller: then it grows again from there. */
  async begin(): Promise<void> {
    const { pool, backend, configuredMs } = this.#options;
    const fraction = fractionOf(await backend.memory());
    if (fraction < LOW || (await this.#read()) > configuredMs) await writePublishWindow(pool, configuredMs);
  }

  /** One look at the memory and what follows from it. */
  async adapt(): Promise<void> {
    const memory = await this.#options.backend.memory();
    const fraction = fractionOf(memory);
    if (fraction > HIGH && memory) await this.#shrink(memory);
    else {
      if (this.problem !== undefined) this.#options.log.info({ fraction }, 'room in the queue backend again');
      this.problem = undefined;
      if (fraction < LOW && performance.now() > this.#growAt) await this.#grow();
    }
  }

  async #shrink({ usedBytes, maxBytes }: Memory): Promise<void> {
    const { pool, configuredMs, log } = this.#options;
    const isRelapse = this.problem === undefined;
    this.problem = `the queue backend is ${Math.round((100 * usedBytes) / maxBytes)} % full, nothing is published`;
    if (isRelapse && this.#growAt > 0) this.#growAfterMs = Math.min(this.#growAfterMs * 2, LONGEST_GROW_AFTER_MS);
    this.#growAt = performance.now() + this.#growAfterMs;

    const windowMs = Math.max((await this.#read()) / 2, Math.min(SMALLEST_WINDOW_MS, configuredMs));
    await writePublishWindow(pool, windowMs);
    await pool.query(PUT_FAR);
    const returned = await takeBackBeyond(pool);
    if (isRelapse || returned > 0) {
      log.warn({ usedBytes, maxBytes, windowS: windowMs / SECOND, returned }, 'queue backend nearly full');
    }
  }

  async #grow(): Promise<void> {
    const { pool, configuredMs, log } = this.#options;
    const before = await this.#read();
    if (before >= configuredMs) {
      this.#growAt = 0;
      this.#growAfterMs = this.#firstGrowAfterMs;
      return;
    }
    const windowMs = Math.min(before * 2, configuredMs);
    await writePublishWindow(pool, windowMs);
    this.#growAt = performance.now() + this.#growAfterMs;
    log.info({ windowS: windowMs / SECOND }, 'publish window grown');
  }

  async #read(): Promise<number> {
    const { rows } = await this.#options.pool.query<{ windowMs: number }>(READ_WINDOW);
    return rows[0]?.windowMs ?? this.#options.configuredMs;
  }
}

function fractionOf(memory: Memory | undefined): number {
  return memory ? memory.usedBytes / memory.maxBytes : 0;
}

/** Takes published rows beyond the window back, the farthest due first; returns how many. */
async function takeBackBeyond(pool: Pool): Promise<number> {
  let total = 0;
  for (let batch = 1, returned = BATCH; batch <= BATCHES_PER_ROUND && returned > 0; batch += 1) {
    const { rows } = await pool.query<Published & Record<string, unknown>>(FIND_BEYOND);
    returned = await unpublish(pool, rows, { remove: true });
    total += returned;
  }
  return total;
}

import { Repeater, SECOND, type Logger, type Pool, type QueueBackend } from '@outbox/core';
import { BEGINNING } from './cursor.ts';
import { followEpoch, takeBackOlder, type SeenEpochs } from './epochs.ts';
import { lookThrough } from './look-through.ts';
import { findLost, OVERDUE_MS, takeBackLost } from './lost-jobs.ts';
import { addRepaired, Findings, setDrift } from './repairs.ts';

/**
 * Keeps BullMQ in step with Postgres, for as long as the bridge runs. Postgres is right. Three nets, each for what the one
 * before cannot see:
 *
 *   epochs   a queue's data is gone as a whole (epochs.ts)
 *   overdue  a job should have run by now and has not: part of the data is gone, or somebody removed it (lost-jobs.ts)
 *   look     everything else, in both directions, a thousand rows or jobs a second (look-through.ts)
 */
export interface ReconcilerOptions {
  pool: Pool;
  backend: QueueBackend;
  queues: readonly string[];
  /** Does what has to be done with a queue's new data before anything is published into it. */
  prepare: (queue: string) => Promise<unknown>;
  /** Says why nothing may be changed now; undefined when all is well. */
  heldBy: () => string | undefined;
  log: Logger;
}

const FIND_STRAGGLERS_EVERY_MS = 2 * SECOND;
const CHECK_OVERDUE_EVERY_MS = 5 * SECOND;
const FOLLOW_EVERY_MS = SECOND / 2;
const STEP_EVERY_MS = 1 * SECOND;

/** Looks pass the rows that wait for their time in Postgres: of millions, they may take a twentieth of a core. */
const REST_FACTOR = 20;

/** Longer than any publish can be under way: its session is ended when it idles in its transaction for 30 s. */
const STRAGGLERS_FOR_MS = 60 * SECOND;

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #repeater: Repeater;
  readonly #seen: SeenEpochs = new Map();
  #overdueAt = 0;
  #stepAt = 0;
  #look: ReturnType<typeof lookThrough> | undefined;
  /** What the faster nets have found since the last look at everything. */
  #found: Findings;
  /** After a change of epoch, and after our own start, until a look after the window finds no row of an older one. */
  #looksForStragglers = false;
  #stragglersUntil = 0;
  #stragglersAt = 0;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#found = new Findings(options.queues);
    this.#repeater = new Repeater({
      everyMs: FOLLOW_EVERY_MS,
      log: options.log,
      failure: 'reconcile failed',
      work: () => this.#reconcile(),
    });
  }

  /** Agrees on the epochs first: what is published from now on carries them. */
  async start(): Promise<void> {
    await this.#repeater.start();
  }

  async stop(): Promise<void> {
    await this.#repeater.stop();
  }

  async #reconcile(): Promise<void> {
    if (this.#options.heldBy() !== undefined) return;
    await this.#followEpochs();
    if (performance.now() > this.#overdueAt) await this.#checkOverdue();
    if (performance.now() > this.#stepAt) await this.#step();
  }

  /** Of all queues first: while rows of one go back, the loss of another must not be unseen. */
  async #followEpochs(): Promise<void> {
    const { pool, queues } = this.#options;
    for (const queue of queues) {
      if (await followEpoch(this.#options, queue, this.#seen)) this.#lookForStragglers();
    }
    if (!this.#looksForStragglers || performance.now() < this.#stragglersAt) return;
    const startedAt = performance.now();
    // Asked before the look: however long this process was suspended, one look comes after the window.
    const isLast = performance.now() > this.#stragglersUntil;
    const { found, returned } = await takeBackOlder(pool, queues);
    this.#stragglersAt = restedAfter(startedAt, FIND_STRAGGLERS_EVERY_MS);
    if (found > 0) this.#lookForStragglers();
    else this.#looksForStragglers = !isLast;
    await this.#note('epoch', returned);
  }

  /** At once, and then again and again: each look walks over everything that is published. */
  #lookForStragglers(): void {
    this.#looksForStragglers = true;
    this.#stragglersAt = 0;
    this.#stragglersUntil = performance.now() + STRAGGLERS_FOR_MS;
  }

  async #checkOverdue(): Promise<void> {
    this.#overdueAt = performance.now() + CHECK_OVERDUE_EVERY_MS;
    const { pool, queues } = this.#options;
    const { lost } = await findLost(this.#options, { cursor: BEGINNING, withinMs: -OVERDUE_MS });
    if (lost.length === 0) return;
    // If everything was lost a moment ago, the epoch is raised first: taken back before, rows would be so twice.
    await this.#followEpochs();
    await this.#note('overdue', await takeBackLost(pool, queues, lost));
  }

  async #note(net: string, found: Findings): Promise<void> {
    if (found.total === 0) return;
    this.#found.addAll(found);
    this.#options.log.warn({ net, returned: found.total }, 'lost jobs published again');
    await addRepaired(this.#options.pool, found);
  }

  async #step(): Promise<void> {
    const startedAt = performance.now();
    this.#look ??= lookThrough({ ...this.#options, dryRun: false, followEpochs: () => this.#followEpochs() });
    try {
      const step = await this.#look.next();
      if (step.done) await this.#endLook(step.value);
    } catch (error) {
      this.#look = undefined;
      throw error;
    } finally {
      this.#stepAt = restedAfter(startedAt, STEP_EVERY_MS);
    }
  }

  async #endLook(found: Findings): Promise<void> {
    this.#look = undefined;
    const { pool, queues, log } = this.#options;
    const repairs = found.entries().filter((entry) => entry.found > 0);
    if (repairs.length > 0) log.warn({ repairs }, 'differences between rows and BullMQ repaired');
    found.addAll(this.#found);
    await setDrift(pool, found);
    this.#found = new Findings(queues);
  }
}

/** When to look again after a look that began at `startedAt`: after `leastMs`, or longer when it took long. */
function restedAfter(startedAt: number, leastMs: number): number {
  const now = performance.now();
  return now + Math.max(leastMs, REST_FACTOR * (now - startedAt));
}

import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, type Logger, type Pool } from '@outbox/core';
import { admitNext } from './admit.ts';
import { publishBatch, type PublishOptions } from './publish.ts';
import { carryOutRemovals } from './removals.ts';
import type { WakeUp } from './wake-up.ts';

/** An awake bridge looks this often, and falls asleep after seeing nothing for so long. */
const LOOK_EVERY_MS = 2;
const LINGER_MS = 10;

/** When writers were waiting for each other to notify, or nobody can notify: it is awake at the next of their commits. */
const LONG_LINGER_MS = 50;

/**
 * The first sleep after being awake, doubling up to the poll interval: who wrote while we were awake has not notified, and may
 * commit after we have looked for the last time.
 */
const FIRST_SLEEP_MS = 10;

/** After an error: the first wait, doubling up to the longest. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5 * SECOND;

/** Far rows are looked for this often; they are days away from being due. */
const BRING_NEAR_EVERY_MS = 1 * SECOND;

/** A cancelled job is out of BullMQ well within a second. */
const REMOVE_EVERY_MS = 50;

/** How often an awake bridge looks whose turn is next; less often when looking takes long. */
const ADMIT_EVERY_MS = 20;
const ADMIT_REST_FACTOR = 5;

/** While it is held it looks this often whether it may go on. */
const HELD_MS = 100;

/** The window is read first: as a bound of the index, not as something to compare each far row with. */
const BRING_NEAR = /* sql */ `
  update outbox.ready r
  set far = false
  where (r.job_id, r.generation) in (
    select f.job_id, f.generation
    from outbox.ready f
    where f.far and f.scheduled_at <= now() + (select m.publish_window from outbox.meta m where m.only_row)
    order by f.scheduled_at
    limit 1000
    for update of f skip locked
  )`;

export interface PublishLoopOptions extends PublishOptions {
  /** Undefined behind a transaction pooler: then the bridge polls. */
  wakeUp: WakeUp | undefined;
  pollMs: number;
  /** Says why nothing at all may be done now; undefined when all is well. */
  heldBy: () => string | undefined;
  /** Says why nothing may be added to the queue backend now; undefined when there is room. */
  fullBecause: () => string | undefined;
  log: Logger;
}

/** Publishes for as long as the bridge runs: awake while there is work, asleep until a writer notifies otherwise. */
export class PublishLoop {
  /** Undefined while all is well, else why the last publish failed. */
  problem: string | undefined;
  readonly #options: PublishLoopOptions;
  readonly #pool: Pool;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #nearAt = 0;
  #removeAt = 0;
  #admitAt = 0;
  /** When the next row with a serial key is due: no writer will notify us of that. performance.now() */
  #nextTurnAt = Infinity;
  #retryMs = FIRST_RETRY_MS;
  #sleepMs = FIRST_SLEEP_MS;

  constructor(options: PublishLoopOptions) {
    this.#options = options;
    this.#pool = options.pool;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Finishes the batch in hand. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#options.wakeUp?.wake();
    await this.#running;
  }

  /**
   * A row now and then is published by a bridge that sleeps otherwise, woken by the writer. Work at two looks in a row keeps it
   * awake, and so do writers who get into each other's way by notifying: then they must not, and there is enough to be found.
   */
  async #run(): Promise<void> {
    const { wakeUp } = this.#options;
    let isBusy = false;
    for (;;) {
      await wakeUp?.release();
      if (this.#stop.signal.aborted) return;
      const done = await this.#look({ beforeSleep: true });
      if (done === 0) {
        if (await wakeUp?.isCrowded()) await this.#publishUntilQuiet(LONG_LINGER_MS);
        else await this.#sleep();
      } else if (!wakeUp) await this.#publishUntilQuiet(LONG_LINGER_MS);
      else if (isBusy) await this.#publishUntilQuiet(LINGER_MS);
      isBusy = done > 0;
    }
  }

  async #sleep(): Promise<void> {
    const { wakeUp, pollMs } = this.#options;
    const sleepMs = Math.min(this.#sleepMs, pollMs, Math.max(0, this.#nextTurnAt - performance.now()));
    this.#sleepMs = Math.min(2 * this.#sleepMs, pollMs);
    if (wakeUp) await wakeUp.wait(sleepMs);
    else await this.#pause(sleepMs);
  }

  async #publishUntilQuiet(lingerMs: number): Promise<void> {
    this.#sleepMs = FIRST_SLEEP_MS;
    let quietSince = performance.now();
    while (!this.#stop.signal.aborted && performance.now() - quietSince < lingerMs) {
      void this.#options.wakeUp?.acquire();
      if ((await this.#look()) > 0) quietSince = performance.now();
      else await this.#pause(LOOK_EVERY_MS);
    }
  }

  /**
   * Publishes one batch, then sees to what else is due, and before a sleep to everything; returns how many rows moved on. An
   * error is logged and waited out: the rows stay where they are.
   */
  async #look({ beforeSleep = false } = {}): Promise<number> {
    const { log, heldBy, fullBecause } = this.#options;
    const held = heldBy();
    const reason = held ?? fullBecause();
    if (reason !== undefined) {
      this.problem = reason;
      const removed = held === undefined ? await this.#remove({ atOnce: true }) : 0; // makes room
      if (removed === 0) await this.#rest(HELD_MS);
      return removed;
    }
    try {
      const moved = await this.#publishAndTidy(beforeSleep);
      this.problem = undefined;
      this.#retryMs = FIRST_RETRY_MS;
      return moved;
    } catch (err) {
      this.problem = err instanceof Error ? err.message : String(err);
      log.error({ err, retryMs: this.#retryMs }, 'publish failed');
      await this.#rest(this.#retryMs);
      this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
      return 0;
    }
  }

  /** What the queue backend does not take must not keep other rows from their turn, nor cancelled jobs in a queue that works. */
  async #publishAndTidy(beforeSleep: boolean): Promise<number> {
    const [publish] = await Promise.allSettled([this.#publish()]);
    const settled = publish.status === 'fulfilled' ? publish.value : 0;
    const atOnce = beforeSleep && settled === 0;
    const moved =
      settled + (await this.#bringNear()) + (await this.#admit({ atOnce })) + (await this.#remove({ atOnce }));
    if (publish.status === 'rejected') throw publish.reason;
    return moved;
  }

  async #publish(): Promise<number> {
    const { log } = this.#options;
    const started = performance.now();
    const { published, settled, refused } = await publishBatch(this.#options);
    if (refused.length > 0) log.error({ outboxIds: refused }, 'rows refused by the queue');
    if (published > 0) log.info({ published, durationMs: Math.round(performance.now() - started) }, 'rows published');
    return settled;
  }

  /** Nothing can be published meanwhile: nobody has to be notified of anything. */
  async #rest(ms: number): Promise<void> {
    void this.#options.wakeUp?.acquire();
    await this.#pause(ms);
  }

  /** Ends early when the loop is stopped. */
  async #pause(ms: number): Promise<void> {
    await wait(ms, undefined, { signal: this.#stop.signal }).catch(() => undefined);
  }

  async #remove({ atOnce }: { atOnce: boolean }): Promise<number> {
    if (performance.now() < this.#removeAt - (atOnce ? REMOVE_EVERY_MS : 0)) return 0;
    try {
      const removed = await carryOutRemovals(this.#options);
      if (removed > 0) this.#options.log.info({ removed }, 'cancelled jobs removed');
      this.#removeAt = performance.now() + REMOVE_EVERY_MS;
      return removed;
    } catch (err) {
      // The claim drops a cancelled job anyway: publishing goes on.
      this.#options.log.warn({ err }, 'cancelled jobs not removed');
      this.#removeAt = performance.now() + LONGEST_RETRY_MS;
      return 0;
    }
  }

  async #admit({ atOnce }: { atOnce: boolean }): Promise<number> {
    const from = this.#admitAt - (atOnce ? ADMIT_EVERY_MS : 0);
    const started = performance.now();
    if (started < from) {
      this.#nextTurnAt = Math.min(this.#nextTurnAt, from);
      return 0;
    }
    const { letGo, nextInMs } = await admitNext(this.#pool);
    const ended = performance.now();
    this.#admitAt = ended + Math.max(ADMIT_EVERY_MS, ADMIT_REST_FACTOR * (ended - started));
    this.#nextTurnAt = nextInMs === undefined ? Infinity : ended + nextInMs;
    return letGo;
  }

  async #bringNear(): Promise<number> {
    if (performance.now() < this.#nearAt) return 0;
    const { rowCount } = await this.#pool.query(BRING_NEAR);
    this.#nearAt = performance.now() + BRING_NEAR_EVERY_MS;
    return rowCount ?? 0;
  }
}

import { SECOND, type Logger, type QueueBackend } from '@outbox/core';
import type { Queue } from 'bullmq';

/** What one queue's worker does, as seen from beside it. */
export interface QueueActivity {
  queue: string;
  /** False while it takes no jobs on purpose, or has no slot free. */
  couldTake: boolean;
  /** Jobs taken since the start. */
  taken: number;
}

const LOOKS_UNTIL_WEDGED = 10;
const LONGEST_INTERVAL_MS = 10 * SECOND;

interface Watched {
  queue: Queue;
  takenBefore: number;
  /** How long it has looked wedged, by looks that really took place. */
  idleMs: number;
}

export interface WatchdogOptions {
  backend: QueueBackend;
  queues: readonly string[];
  activity: () => QueueActivity[];
  wedgedAfterMs: number;
  log: Logger;
}

/**
 * Finds a worker that is wedged: the queue backend answers, the queue is neither paused nor limited, work waits there,
 * slots are free, and yet nothing has been taken for `wedgedAfterMs`. Only a new process helps then, so it makes the
 * process fail its liveness, which asks for nothing else: a backend that is away is no reason to be restarted.
 *
 * Time counts in steps of one look at most: a process that did not run (a blocked event loop, a suspended machine) has
 * not been looking, and is not wedged because of it.
 */
export class Watchdog {
  readonly #backend: QueueBackend;
  readonly #activity: () => QueueActivity[];
  readonly #wedgedAfterMs: number;
  readonly #intervalMs: number;
  readonly #log: Logger;
  readonly #watched: Map<string, Watched>;
  #lookedAt = performance.now();
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor({ backend, queues, activity, wedgedAfterMs, log }: WatchdogOptions) {
    this.#backend = backend;
    this.#activity = activity;
    this.#wedgedAfterMs = wedgedAfterMs;
    this.#intervalMs = Math.min(wedgedAfterMs / LOOKS_UNTIL_WEDGED, LONGEST_INTERVAL_MS);
    this.#log = log;
    this.#watched = new Map(
      queues.map((name) => [name, { queue: backend.createQueue(name), takenBefore: 0, idleMs: 0 }]),
    );
  }

  start(): void {
    this.#lookedAt = performance.now();
    this.#timer = setInterval(() => void this.look(), this.#intervalMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
    await Promise.all([...this.#watched.values()].map(({ queue }) => queue.close()));
  }

  /** What is wrong, in a few words with the queues' names; undefined when nothing is. Asks nobody. */
  problem(): string | undefined {
    const wedged = [...this.#watched].filter(([, { idleMs }]) => idleMs >= this.#wedgedAfterMs);
    if (wedged.length === 0) return undefined;
    return `${wedged.map(([name]) => name).join(', ')}: jobs wait, and none is taken`;
  }

  /** One at a time; a call while another is under way joins it. */
  look(): Promise<void> {
    this.#looking ??= this.#lookAtAll().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #lookAtAll(): Promise<void> {
    const now = performance.now();
    const elapsedMs = Math.min(now - this.#lookedAt, this.#intervalMs);
    this.#lookedAt = now;
    for (const activity of this.#activity()) {
      const watched = this.#watched.get(activity.queue);
      if (!watched) continue;
      const isIdle = activity.couldTake && activity.taken === watched.takenBefore && (await this.#workWaits(watched));
      this.#note(activity, watched, isIdle ? watched.idleMs + elapsedMs : 0);
    }
  }

  #note({ queue, taken }: QueueActivity, watched: Watched, idleMs: number): void {
    const wasWedged = watched.idleMs >= this.#wedgedAfterMs;
    const isWedged = idleMs >= this.#wedgedAfterMs;
    watched.takenBefore = taken;
    watched.idleMs = idleMs;
    if (isWedged && !wasWedged) this.#log.error({ queue, idleMs: Math.round(idleMs) }, 'worker is wedged');
    else if (wasWedged && !isWedged) this.#log.info({ queue }, 'worker is not wedged any more');
  }

  async #workWaits({ queue }: Watched): Promise<boolean> {
    try {
      await this.#backend.ping();
      const { wait = 0, prioritized = 0 } = await queue.getJobCounts('wait', 'prioritized');
      if (wait + prioritized === 0) return false;
      const [isPaused, limitedMs] = await Promise.all([queue.isPaused(), queue.getRateLimitTtl()]);
      return !isPaused && limitedMs <= 0;
    } catch {
      return false; // who is away has no work for us
    }
  }
}

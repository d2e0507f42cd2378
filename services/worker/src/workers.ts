import { setTimeout as sleep } from 'node:timers/promises';
import { SECOND, type DatabaseClock, type Logger, type QueueBackend } from '@outbox/core';
import type { Job, Worker } from 'bullmq';
import { ErrorBackoff } from './error-backoff.ts';
import type { RestoreWatch } from './restore-watch.ts';
import { RetryAtError } from './run-job.ts';
import type { QueueActivity } from './watchdog.ts';

/** A stalled job is redelivered as often as it takes; the row counts interruptions and decides. */
const MAX_STALLED_COUNT = 1_000_000;

/** After a failed command to the backend; BullMQ's default of 15 s would delay jobs after a short outage. */
const RUN_RETRY_DELAY_MS = 1 * SECOND;

/** An error that is no decision of a row (Redis broke in between): the next delivery asks the row again. */
const UNDECIDED_RETRY_MS = 1 * SECOND;

const FOLLOW_EVERY_MS = 1 * SECOND;

/** When a job has ended, BullMQ is told so within this time, or not at all: its row says how it ended. */
const ANSWER_MS = 3 * SECOND;
const IDLE_CHECK_MS = 50;

export interface WorkersOptions {
  backend: QueueBackend;
  queues: readonly string[];
  concurrency: number;
  /** BullMQ's lock lasts as long as the row's lease. */
  leaseMs: number;
  stalledIntervalMs: number;
  clock: Pick<DatabaseClock, 'trustworthy' | 'offsetMs'>;
  restores: Pick<RestoreWatch, 'restored'>;
  run: (job: Job, token: string | undefined) => Promise<unknown>;
  log: Logger;
}

/** One queue's BullMQ worker. */
interface Lane {
  worker: Worker;
  backoff: ErrorBackoff;
  /** True while we keep it from taking jobs. */
  held: boolean;
  running: number;
  taken: number;
  /** `taken` when it was last looked at. */
  takenBefore: number;
}

/**
 * One BullMQ worker per queue. They take no job while this machine's clock is off by more than the tolerated offset, while
 * the database is older than one that was seen before, and while the queue backend refuses (each queue for itself).
 */
export class Workers {
  readonly #options: WorkersOptions;
  readonly #lanes: Lane[];
  #clockTrusted = true;
  #closing = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: WorkersOptions) {
    this.#options = options;
    this.#lanes = options.queues.map((queue) => this.#createLane(queue));
  }

  start(): void {
    this.#follow();
    for (const { worker } of this.#lanes) {
      void worker.run().catch((err: unknown) => {
        this.#options.log.error({ err, queue: worker.name }, 'worker stopped');
      });
    }
    this.#timer = setInterval(() => this.#follow(), FOLLOW_EVERY_MS);
  }

  /**
   * Takes no more jobs and waits for those in hand. BullMQ's own close can wait without end while Redis is away: it is then
   * forced, and in no case waited for long once no job is in hand.
   */
  async close(): Promise<void> {
    this.#closing = true;
    clearInterval(this.#timer);
    for (const { backoff } of this.#lanes) backoff.stop();
    const closed = new AbortController();
    const closing = this.#closeAll(closed.signal);
    await Promise.race([closing, this.#untilIdle(2 * ANSWER_MS, closed.signal)]);
    closed.abort();
  }

  async #closeAll(stop: AbortSignal): Promise<void> {
    const workers = this.#lanes.map(({ worker }) => worker);
    const isAway = await this.#options.backend.ping().then(
      () => false,
      () => true,
    );
    if (isAway) {
      await Promise.all(workers.map((worker) => worker.pause(true)));
      await this.#untilIdle(ANSWER_MS, stop);
    }
    await Promise.all(workers.map((worker) => worker.close(isAway)));
  }

  /** Resolves once no job has been in hand for `forMs`. */
  async #untilIdle(forMs: number, stop: AbortSignal): Promise<void> {
    let idleSince = performance.now();
    while (!stop.aborted && performance.now() - idleSince < forMs) {
      await sleep(IDLE_CHECK_MS);
      if (this.#lanes.some(({ running }) => running > 0)) idleSince = performance.now();
    }
  }

  /** For the watchdog. */
  activity(): QueueActivity[] {
    return this.#lanes.map(({ worker, held, running, taken }) => ({
      queue: worker.name,
      couldTake: !this.#closing && !held && running < this.#options.concurrency,
      taken,
    }));
  }

  #createLane(queue: string): Lane {
    const { backend, leaseMs, stalledIntervalMs, run, log } = this.#options;
    const worker = backend.createWorker(
      queue,
      async (job, token) => {
        lane.taken += 1;
        lane.running += 1;
        lane.backoff.worked();
        this.#takeMore(lane);
        return run(job, token).finally(() => (lane.running -= 1));
      },
      {
        autorun: false,
        concurrency: 1,
        lockDuration: leaseMs,
        stalledInterval: stalledIntervalMs,
        maxStalledCount: MAX_STALLED_COUNT,
        runRetryDelay: RUN_RETRY_DELAY_MS,
        settings: {
          backoffStrategy: (_attemptsMade, _type, error) =>
            error instanceof RetryAtError ? Math.ceil(error.delayMs) : UNDECIDED_RETRY_MS,
        },
      },
    );
    const backoff = new ErrorBackoff(log.child({ queue }), () => this.#follow());
    worker.on('error', (err) => backoff.failed(err));
    const lane: Lane = { worker, backoff, held: false, running: 0, taken: 0, takenBefore: 0 };
    return lane;
  }

  /**
   * BullMQ fetches for every free place, one after the other, before it starts the first job; when many become due at once
   * each fetch takes milliseconds, since it moves up to 1,000 of them. So a worker that was idle has one place, and twice as
   * many with each job that starts: the first runs while the others are still being fetched.
   */
  #takeMore({ worker }: Lane): void {
    const { concurrency } = this.#options;
    if (worker.concurrency < concurrency) worker.concurrency = Math.min(2 * worker.concurrency, concurrency);
  }

  #followIdle(lane: Lane): void {
    if (lane.running === 0 && lane.taken === lane.takenBefore) lane.worker.concurrency = 1;
    lane.takenBefore = lane.taken;
  }

  /** Only what was held here is let go: a worker that somebody else has paused stays so, and the watchdog sees it. */
  #follow(): void {
    if (this.#closing) return;
    this.#followClock();
    const holdAll = !this.#clockTrusted || this.#options.restores.restored;
    for (const lane of this.#lanes) {
      this.#followIdle(lane);
      const hold = holdAll || lane.backoff.waiting;
      if (hold === lane.held) continue;
      lane.held = hold;
      if (hold) void lane.worker.pause(true);
      else void lane.worker.resume();
    }
  }

  #followClock(): void {
    const { clock, log } = this.#options;
    if (clock.trustworthy === this.#clockTrusted) return;
    this.#clockTrusted = clock.trustworthy;
    const offsetMs = Math.round(clock.offsetMs);
    if (clock.trustworthy) log.info({ offsetMs }, 'clock agrees with the database again');
    else log.error({ offsetMs }, 'clock differs from the database, taking no jobs');
  }
}

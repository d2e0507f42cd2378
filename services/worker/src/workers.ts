import { SECOND, type DatabaseClock, type Logger, type QueueBackend } from '@outbox/core';
import type { Job, Worker } from 'bullmq';
import { RetryAtError } from './run-job.ts';

/** A stalled job is redelivered as often as it takes; the row counts interruptions and decides. */
const MAX_STALLED_COUNT = 1_000_000;

/** After a failed command to the backend; BullMQ's default of 15 s would delay jobs after a short outage. */
const RUN_RETRY_DELAY_MS = 1 * SECOND;

/** An error that is no decision of a row (Redis broke in between): the next delivery asks the row again. */
const UNDECIDED_RETRY_MS = 1 * SECOND;

const CLOCK_CHECK_MS = 1 * SECOND;

export interface WorkersOptions {
  backend: QueueBackend;
  queues: readonly string[];
  concurrency: number;
  /** BullMQ's lock lasts as long as the row's lease. */
  leaseMs: number;
  stalledIntervalMs: number;
  clock: DatabaseClock;
  run: (job: Job, token: string | undefined) => Promise<unknown>;
  log: Logger;
}

/** One BullMQ worker per queue. They take no job while this machine's clock is off by more than the tolerated offset. */
export class Workers {
  readonly #workers: Worker[];
  readonly #clock: DatabaseClock;
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;

  constructor({ backend, queues, clock, run, log, ...tuning }: WorkersOptions) {
    this.#clock = clock;
    this.#log = log;
    this.#workers = queues.map((queue) =>
      backend.createWorker(queue, run, {
        autorun: false,
        concurrency: tuning.concurrency,
        lockDuration: tuning.leaseMs,
        stalledInterval: tuning.stalledIntervalMs,
        maxStalledCount: MAX_STALLED_COUNT,
        runRetryDelay: RUN_RETRY_DELAY_MS,
        settings: {
          backoffStrategy: (_attemptsMade, _type, error) =>
            error instanceof RetryAtError ? Math.ceil(error.delayMs) : UNDECIDED_RETRY_MS,
        },
      }),
    );
  }

  start(): void {
    for (const worker of this.#workers) {
      worker.on('error', (err) => this.#log.warn({ err, queue: worker.name }, 'worker error'));
      if (!this.#clock.trustworthy) void worker.pause(true);
      void worker.run().catch((err: unknown) => this.#log.error({ err, queue: worker.name }, 'worker stopped'));
    }
    this.#timer = setInterval(() => this.#followClock(), CLOCK_CHECK_MS);
  }

  /** Takes no more jobs and waits for those in hand. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#workers.map((worker) => worker.close()));
  }

  #followClock(): void {
    for (const worker of this.#workers) {
      if (this.#clock.trustworthy === !worker.isPaused()) continue;
      if (this.#clock.trustworthy) void worker.resume();
      else void worker.pause(true);
      this.#log.error(
        { queue: worker.name, offsetMs: Math.round(this.#clock.offsetMs) },
        this.#clock.trustworthy
          ? 'clock agrees with the database again'
          : 'clock differs from the database, taking no jobs',
      );
    }
  }
}

/** How long BullMQ keeps a job for the worker it was given to, unless that renews (services/worker/src/workers.ts, lockDuration). */
export const LOCK_SECONDS = 15;

export interface BullJob {
  readonly id: string;
  state: 'delayed' | 'wait' | 'active' | 'completed' | 'failed';
  dueAt: number;
  /** Who has it; an answer with another token is refused. */
  token: number;
  lockUntil: number;
}

/** What a worker holds of a delivered job. */
export interface Delivery {
  readonly id: string;
  readonly token: number;
}

interface Data {
  jobs: Map<string, BullJob>;
  epoch: number | undefined;
}

/** One BullMQ queue and the Redis it lives in, in which anything may be lost. */
export class Queue {
  #data: Data = { jobs: new Map(), epoch: 1 };
  #snapshot: Data | undefined;
  #lastToken = 0;

  get jobs(): Iterable<BullJob> {
    return this.#data.jobs.values();
  }

  find(id: string): BullJob | undefined {
    return this.#data.jobs.get(id);
  }

  /** In the queue's meta (packages/core/src/queue-backend.ts). */
  get epoch(): number | undefined {
    return this.#data.epoch;
  }

  set epoch(epoch: number) {
    this.#data.epoch = epoch;
  }

  /** A job of this id that is retained, finished or not, makes this a no-op: BullMQ's own rule. */
  add(id: string, dueAt: number): void {
    if (this.#data.jobs.has(id)) return;
    this.#data.jobs.set(id, { id, state: 'delayed', dueAt, token: 0, lockUntil: 0 });
  }

  take(now: number): Delivery | undefined {
    for (const job of this.jobs) {
      if (job.state !== 'wait' && (job.state !== 'delayed' || job.dueAt > now)) continue;
      Object.assign(job, { state: 'active', token: ++this.#lastToken, lockUntil: now + LOCK_SECONDS });
      return { id: job.id, token: job.token };
    }
    return undefined;
  }

  /** A worker answers. Nothing happens when the job is not its own any more. */
  answer({ id, token }: Delivery, answer: 'completed' | 'failed' | { laterAt: number }): void {
    const job = this.find(id);
    if (job?.state !== 'active' || job.token !== token) return;
    if (typeof answer === 'string') job.state = answer;
    else Object.assign(job, { state: 'delayed', dueAt: answer.laterAt });
  }

  renewLock({ id, token }: Delivery, now: number): void {
    const job = this.find(id);
    if (job?.state === 'active' && job.token === token) job.lockUntil = now + LOCK_SECONDS;
  }

  /** Jobs whose worker does not renew are given out again, under the same id. */
  redeliverStalled(now: number): void {
    for (const job of this.jobs) if (job.state === 'active' && job.lockUntil < now) job.state = 'wait';
  }

  /** BullMQ removes no job that a worker has. */
  remove(id: string): void {
    if (this.find(id)?.state !== 'active') this.#data.jobs.delete(id);
  }

  isOpen(id: string): boolean {
    const state = this.find(id)?.state;
    return state !== undefined && state !== 'completed' && state !== 'failed';
  }

  loseEverything(): void {
    this.#data = { jobs: new Map(), epoch: undefined };
  }

  /** A replica, or a file on disk, that stays behind from here on. */
  takeSnapshot(): void {
    this.#snapshot = copy(this.#data);
  }

  failOver(): void {
    if (this.#snapshot) this.#data = copy(this.#snapshot);
  }

  /** A person at a Redis console, or BullMQ itself that has seen a job stall too often. */
  failByOtherHands(): void {
    for (const job of this.jobs) {
      if (job.state !== 'delayed' && job.state !== 'wait') continue;
      job.state = 'failed';
      return;
    }
  }
}

function copy({ jobs, epoch }: Data): Data {
  return { jobs: new Map([...jobs].map(([id, job]) => [id, { ...job }])), epoch };
}

import type { Logger } from './logger.ts';

export interface RepeaterOptions {
  everyMs: number;
  log: Logger;
  /** What is logged when the work fails; once, until it works again. */
  failure: string;
  work: () => Promise<unknown>;
}

/** Does its work again and again, `everyMs` after the end of the last time. An error waits for the next time. */
export class Repeater {
  readonly #options: RepeaterOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #stopped = false;
  #failing = false;

  constructor(options: RepeaterOptions) {
    this.#options = options;
  }

  /** Resolves when the work was done, or has failed, for the first time. */
  async start(): Promise<void> {
    this.#round = this.#run();
    await this.#round;
  }

  /** Waits for the work in hand. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#round;
  }

  async #run(): Promise<void> {
    const { everyMs, work, log, failure } = this.#options;
    try {
      await work();
      this.#failing = false;
    } catch (err) {
      if (!this.#failing) log.warn({ err }, failure);
      this.#failing = true;
    }
    if (!this.#stopped) this.#timer = setTimeout(() => (this.#round = this.#run()), everyMs);
  }
}

import { isConnectionError } from '@outbox/core';

/** One business transaction, as whoever made it saw it. */
export interface Write {
  what: string;
  /** Epoch milliseconds. */
  startedAt: number;
  endedAt: number;
  /** Without the time that a transaction was held open on purpose. */
  durationMs: number;
  /** `unknown`: the connection broke, and with it the answer. */
  outcome: 'committed' | 'rolled back' | 'failed' | 'unknown';
  error?: string;
}

/** All writes of a run, and how to make one. */
export class Writes {
  readonly all: Write[] = [];
  readonly #note: (write: Write) => void;

  constructor(note: (write: Write) => void) {
    this.#note = note;
  }

  /** Runs `work`, which returns what it did on purpose; never throws. `heldMs` is what it waited on purpose. */
  async make(what: string, heldMs: number, work: () => Promise<'committed' | 'rolled back'>): Promise<Write> {
    const startedAt = Date.now();
    const started = performance.now();
    const write = await work().then(
      (outcome) => ({ outcome }),
      (error: unknown) => ({
        outcome: isConnectionError(error) ? ('unknown' as const) : ('failed' as const),
        error: error instanceof Error ? error.message : String(error),
      }),
    );
    const durationMs = Math.max(0, performance.now() - started - heldMs);
    const made: Write = { what, startedAt, endedAt: Date.now(), durationMs, ...write };
    this.all.push(made);
    this.#note(made);
    return made;
  }
}

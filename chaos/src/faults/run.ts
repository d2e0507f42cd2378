import { setTimeout as wait } from 'node:timers/promises';
import type { History } from '../history.ts';
import type { Recovery } from '../recovery.ts';
import type { Stage } from '../stage.ts';
import { FAULT_KINDS, type PlannedFault } from './index.ts';

/** One fault as it was. */
export interface FaultRecord {
  fault: PlannedFault;
  /** Epoch milliseconds. */
  startedAt: number;
  endedAt: number | undefined;
  /** Whatever it had to say, such as that a step was not reached. */
  note: string | undefined;
  /** See `Recovery`; undefined when the outbox had not recovered by the end. */
  recoveredAfterMs: number | undefined;
}

export interface FaultRunOptions {
  faults: PlannedFault[];
  stage: Stage;
  recovery: Recovery;
  history: History;
}

/** Inflicts the faults of the schedule by the clock; resolves when the last is over. */
export class FaultRun {
  readonly records: FaultRecord[] = [];
  readonly #options: FaultRunOptions;
  /** By what they break: a fault that took longer than planned keeps the next of its like waiting. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(options: FaultRunOptions) {
    this.#options = options;
  }

  get underWay(): string[] {
    return this.records.filter(({ endedAt }) => endedAt === undefined).map(({ fault }) => fault.kind);
  }

  async run(): Promise<void> {
    const { faults, stage } = this.#options;
    const started = performance.now();
    for (const fault of faults) {
      await wait(Math.max(0, fault.atMs - (performance.now() - started)), undefined, { signal: stage.over }).catch(
        () => undefined,
      );
      if (stage.over.aborted) break;
      const turn = (this.#turns.get(fault.breaks) ?? Promise.resolve()).then(() => this.#inflict(fault));
      this.#turns.set(fault.breaks, turn);
    }
    await Promise.all(this.#turns.values());
  }

  async #inflict(fault: PlannedFault): Promise<void> {
    const { stage, recovery, history } = this.#options;
    const kind = FAULT_KINDS.find(({ name }) => name === fault.kind);
    if (!kind || stage.over.aborted) return;
    const record: FaultRecord = {
      fault,
      startedAt: Date.now(),
      endedAt: undefined,
      note: undefined,
      recoveredAfterMs: undefined,
    };
    this.records.push(record);
    history.note('faults', { event: 'begins', ...fault });
    // A fault may be impossible while another is there (no FLUSHALL without a Redis): noted, and no reason to stop.
    record.note = await kind.inflict(fault, stage).then(
      (note) => note ?? undefined,
      (error: unknown) => `did not work: ${error instanceof Error ? error.message : String(error)}`,
    );
    record.endedAt = Date.now();
    history.note('faults', { event: 'is over', id: fault.id, kind: fault.kind, note: record.note });
    recovery.of(record.endedAt, (ms) => {
      record.recoveredAfterMs = ms;
      history.note('faults', { event: 'recovered', id: fault.id, kind: fault.kind, afterMs: ms });
    });
  }
}

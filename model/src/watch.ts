import { bullIdOf, isOver, type Effect, type Key, type Postgres, type Row, type State } from './postgres.ts';
import type { World } from './world.ts';

/** What a run has read of the world, and when it was claimed. */
interface Reading {
  readonly claimedAt: number;
  readonly version: number;
}

interface Change {
  readonly committedAt: number;
  readonly version: number;
}

/**
 * Watches what happens and compares it with what DESIGN.md promises (section 3, invariants 1-9). It keeps a record of its
 * own and shares no rule with the machine, so that a broken rule cannot hide itself. `moment` counts steps: unlike time
 * it never stands still.
 */
export class Watch {
  violation: string | undefined;
  moment = 0;
  readonly #ended = new Map<number, State>();
  readonly #claims = new Map<number, number>();
  readonly #changes = new Map<Key, Change>();
  readonly #readings = new Map<Key, Reading[]>([
    ['a', []],
    ['b', []],
  ]);

  violated(promise: string): void {
    this.violation ??= promise;
  }

  claimed(row: Row, run: number): void {
    if (this.#ended.has(row.id)) this.violated(`an ended row runs again: row ${row.id}`);
    this.#claims.set(run, this.moment);
  }

  /** `cancelled`: asked to cancel before this run; it does not act on what it reads. */
  readWorld(key: Key, run: number, version: number, cancelled: boolean): void {
    const claimedAt = this.#claims.get(run);
    if (!cancelled && claimedAt !== undefined) this.#readings.get(key)?.push({ claimedAt, version });
  }

  /** The newest run is the row's own, by the number alone. */
  finished(row: Row, run: number): void {
    if (row.run !== run) this.violated(`only the newest run finishes a row: run ${run} ended row ${row.id}`);
  }

  effectStarted(row: Row, run: number): void {
    if (row.run !== run) this.violated(`only the newest run starts an effect: run ${run} did, for row ${row.id}`);
    if (row.cancelRequested) this.violated(`no effect starts after a cancel committed: row ${row.id}`);
  }

  arrived(key: string, times: number, state: Effect['state'] | undefined): void {
    if (times > 1 && state !== 'unknown') this.violated(`no effect arrives twice: ${key}`);
  }

  /** A worker tells BullMQ that a job is done with. */
  bullJobEnded(id: string, db: Postgres): void {
    const open = db.rows.find((row) => bullIdOf(row) === id && !isOver(row));
    if (open) this.violated(`BullMQ's job ends after its row: ${id} is done with, row ${open.id} is ${open.state}`);
  }

  changed(key: Key, change: { version: number; running: boolean }): void {
    if (change.running) this.#changes.set(key, { committedAt: this.moment, version: change.version });
    else this.#changes.delete(key);
  }

  /** A cancel with the business write: nothing of this key stays open unasked, but the job whose own write it was. */
  cancelled(key: Key, db: Postgres, currentJob: number | undefined): void {
    const left = db.rows.find(
      (row) => row.key === key && !isOver(row) && !row.cancelRequested && row.id !== currentJob,
    );
    if (left) this.violated(`a cancel leaves nothing open: row ${left.id} of ${key} is ${left.state}`);
    const rerun = db.rows.find((row) => row.key === key && !isOver(row) && row.rerun);
    if (rerun) this.violated(`a cancel leaves nothing to follow: row ${rerun.id} of ${key} has a rerun`);
  }

  /** `byOthers`: somebody else had asked to cancel it before. */
  pausedItself(row: Row, byOthers: boolean): void {
    if (row.state === 'completed' && row.cancelRequested === byOthers) return;
    const how = row.cancelRequested ? 'cancelled' : row.state;
    this.violated(`a pause check that pauses its own sync ends completed, not cancelled: row ${row.id} is ${how}`);
  }

  /** After every step. */
  look({ db }: World): void {
    this.moment += 1;
    const holders = new Set<string>();
    for (const row of db.rows) {
      const ended = this.#ended.get(row.id);
      if (ended !== undefined && ended !== row.state) this.violated(`an ended row stays ended: row ${row.id}`);
      if (isOver(row)) this.#ended.set(row.id, row.state);
      if (!db.holds(row)) continue;
      const key = `${row.name} ${row.key}`;
      if (holders.has(key)) this.violated(`at most one holder of a key: ${key}`);
      holders.add(key);
    }
  }

  /** When every publish that was under way is over and bridges have compared the epochs since. */
  lookAtEpochs({ db }: World): void {
    for (const row of db.rows) {
      const asPublished = row.state === 'published' && row.startedAt < row.publishedAt;
      if (!asPublished || row.publishedEpoch === db.queue.epoch) continue;
      this.violated(`what was published under an older epoch comes back: row ${row.id} does not`);
    }
  }

  /** When everything has been run to the end. */
  lookAtTheEnd({ db, queue }: World, came: boolean): void {
    for (const row of db.rows) if (!isOver(row)) this.violated(`every row ends: row ${row.id} is ${row.state}`);
    for (const { id, state } of queue.jobs) {
      if (queue.isOpen(id)) this.violated(`Postgres and Redis agree at the end: job ${id} is ${state}`);
    }
    if (!came) this.violated('everything comes to rest');
    for (const [key, change] of this.#changes) {
      if (!this.#wasActedOn(key, change, db)) this.violated(`no change is lost: version ${change.version} of ${key}`);
    }
  }

  /** By a run that began after the commit; or its row is set aside because workers died of it, and a person looks at it. */
  #wasActedOn(key: Key, { committedAt, version }: Change, db: Postgres): boolean {
    const readings = this.#readings.get(key) ?? [];
    const wasRead = readings.some((run) => run.claimedAt >= committedAt && run.version >= version);
    return wasRead || db.rows.some((row) => row.key === key && row.state === 'failed' && row.interruptions > 0);
  }
}

/**
 * Postgres, as far as the machine leans on it: committed rows, transactions whose writes nobody else sees before their
 * commit, row locks, sequences that do not wait for a commit, and one unique index. The rules are in functions.ts.
 */
export type Key = 'a' | 'b';
export type JobName = 'reminder' | 'sync' | 'pause check';
export type State = 'pending' | 'published' | 'active' | 'completed' | 'skipped' | 'failed' | 'cancelled';

/** A row of outbox.jobs. Times are seconds since the beginning. */
export interface Row {
  readonly id: number;
  readonly name: JobName;
  readonly key: Key;
  state: State;
  generation: number;
  run: number;
  attempt: number;
  interruptions: number;
  scheduledAt: number;
  lockedUntil: number | undefined;
  holdsKey: boolean;
  rerun: boolean;
  cancelRequested: boolean;
  publishedEpoch: number | undefined;
  publishedAt: number;
  startedAt: number;
}

/** A row of the host application that has jobs. */
export interface Sync {
  readonly key: Key;
  version: number;
  running: boolean;
}

/** A row of outbox.ready. Its id is taken when it is inserted, so a later id may be committed earlier. */
export interface Ready {
  readonly id: number;
  readonly jobId: number;
  readonly generation: number;
  retryAt: number;
}

/** A row of outbox.removals. */
export interface Removal {
  readonly bullId: string;
}

/** A row of outbox.effects. */
export interface Effect {
  readonly key: string;
  readonly jobId: number;
  readonly run: number;
  readonly startedAt: number;
  readonly deadlineAt: number;
  state: 'started' | 'confirmed' | 'unknown';
}

export function isOver({ state }: Pick<Row, 'state'>): boolean {
  return state !== 'pending' && state !== 'published' && state !== 'active';
}

export function bullIdOf({ id, generation }: Pick<Row, 'id' | 'generation'>): string {
  return `${id}-${generation}`;
}

/** Something that can be locked and changed: the transaction's own copy becomes the committed one. */
type Lockable = Row | Sync | Ready | Removal | QueueRow;

/** The one row of outbox.queues. */
interface QueueRow {
  epoch: number;
}

export class Transaction {
  readonly beganAt: number;
  readonly drafts = new Map<Lockable, Lockable>();
  readonly locks = new Set<Lockable>();
  readonly rows: Row[] = [];
  readonly ready: Ready[] = [];
  readonly removals: Removal[] = [];
  readonly deleted = new Set<Lockable>();
  readonly onCommit: (() => void)[] = [];

  constructor(beganAt: number) {
    this.beganAt = beganAt;
  }
}

export class Postgres {
  rows: Row[] = [];
  ready: Ready[] = [];
  removals: Removal[] = [];
  readonly effects = new Map<string, Effect>();
  readonly syncs: Record<Key, Sync>;
  readonly queue: QueueRow = { epoch: 1 };
  /** Where the broken variant 'cursor (id > last) publishing' keeps its place. */
  cursor = 0;
  readonly #open = new Set<Transaction>();
  readonly #isHolder: (row: Row) => boolean;
  readonly #onCollision: (row: Row) => void;
  #lastJob = 0;
  #lastReady = 0;
  #lastRun = 0;

  /** `isHolder` is the predicate of the unique index over (name, key). */
  constructor(isHolder: (row: Row) => boolean, onCollision: (row: Row) => void) {
    this.#isHolder = isHolder;
    this.#onCollision = onCollision;
    this.syncs = { a: { key: 'a', version: 0, running: true }, b: { key: 'b', version: 0, running: true } };
  }

  nextJobId = () => ++this.#lastJob;
  nextReadyId = () => ++this.#lastReady;
  nextRun = () => ++this.#lastRun;

  begin(now: number): Transaction {
    const tx = new Transaction(now);
    this.#open.add(tx);
    return tx;
  }

  get isQuiet(): boolean {
    return this.#open.size === 0;
  }

  isOpen(tx: Transaction): boolean {
    return this.#open.has(tx);
  }

  /** Locked by another transaction than `tx`. */
  isLocked(thing: Lockable, tx?: Transaction): boolean {
    for (const other of this.#open) if (other !== tx && other.locks.has(thing)) return true;
    return false;
  }

  /** The transaction's own copy of something that nobody else has locked; it is locked until the end. */
  edit<Thing extends Lockable>(tx: Transaction, thing: Thing): Thing {
    const draft = tx.drafts.get(thing) ?? { ...thing };
    tx.drafts.set(thing, draft);
    tx.locks.add(thing);
    return draft as Thing;
  }

  /** What `tx` sees: its own writes, else what is committed. */
  see<Thing extends Lockable>(tx: Transaction | undefined, thing: Thing): Thing {
    return (tx?.drafts.get(thing) ?? thing) as Thing;
  }

  find(id: number): Row | undefined {
    return this.rows.find((row) => row.id === id);
  }

  /** The committed row of this name and key that is in the unique index, as `tx` sees it. */
  holder(tx: Transaction, name: JobName, key: Key): Row | undefined {
    return this.rows.find((row) => row.name === name && row.key === key && this.#isHolder(this.see(tx, row)));
  }

  holds(row: Row): boolean {
    return this.#isHolder(row);
  }

  /** Another transaction inserts the same name and key right now: the unique index makes us wait for it. */
  isBeingInserted(tx: Transaction, name: JobName, key: Key): boolean {
    for (const other of this.#open) {
      if (other !== tx && other.rows.some((row) => row.name === name && row.key === key)) return true;
    }
    return false;
  }

  commit(tx: Transaction): void {
    for (const [thing, draft] of tx.drafts) {
      if ('holdsKey' in draft && 'holdsKey' in thing) this.#checkIndex(tx, thing, draft);
      Object.assign(thing, draft);
    }
    this.rows.push(...tx.rows);
    this.ready = [...this.ready.filter((entry) => !tx.deleted.has(entry)), ...tx.ready];
    this.removals = [...this.removals.filter((entry) => !tx.deleted.has(entry)), ...tx.removals];
    this.#open.delete(tx);
    for (const then of tx.onCommit) then();
  }

  rollback(tx: Transaction): void {
    this.#open.delete(tx);
  }

  /** A row that comes (back) into the unique index must not meet another of its name and key there. */
  #checkIndex(tx: Transaction, before: Row, after: Row): void {
    if (this.#isHolder(before) || !this.#isHolder(after)) return;
    const taken = this.rows.some(
      (row) => row !== before && row.name === after.name && row.key === after.key && this.#isHolder(this.see(tx, row)),
    );
    if (taken) this.#onCollision(after);
  }
}

import { transact, type Deed } from './business.ts';
import { carryOutRemovals, followEpoch, newBridge, publish, scan, type Bridge } from './bridge.ts';
import { isOver, type Key, type Transaction } from './postgres.ts';
import type { Variant } from './variants.ts';
import { lookForCancel, newWorker, renewLease, runJob, type Worker } from './worker.ts';
import { World, type Process } from './world.ts';

/** Someone who does one thing at a time, in steps. */
interface Actor<Memory> {
  memory: Memory;
  process: Process | undefined;
}

interface User {
  tx: Transaction | undefined;
}

/** services/bridge/src/main.ts and services/worker/src/main.ts, idle_in_transaction_session_timeout. */
const IDLE_SECONDS = 30;

/** Two users, two bridges, two workers, and their world. A step that is not possible now does nothing. */
export class Machine {
  readonly world: World;
  /** What happened, for people: the last step and where everybody stands after it. */
  readonly trace: string[] = [];
  readonly #users = pair<User>(() => ({ tx: undefined }));
  readonly #bridges = pair<Bridge>(newBridge);
  readonly #workers = pair<Worker>(newWorker);

  constructor(variant?: Variant) {
    this.world = new World(variant);
  }

  /** Begins a transaction, or goes on with the one under way. */
  transact(user: number, deed: Deed, key: Key): void {
    const actor = at(this.#users, user);
    actor.process ??= transact(this.world, (actor.memory.tx = this.world.db.begin(this.world.now)), deed, key);
    this.#goOn(actor);
  }

  goOnTransacting(user: number): void {
    this.#goOn(at(this.#users, user));
  }

  rollBack(user: number): void {
    const actor = at(this.#users, user);
    this.#crash(actor, { tx: undefined });
  }

  /** Begins this task, or goes on with the one under way. */
  bridge(bridge: number, task: (world: World, memory: Bridge) => Process): void {
    const actor = at(this.#bridges, bridge);
    actor.process ??= task(this.world, actor.memory);
    this.#goOn(actor);
  }

  crashBridge(bridge: number): void {
    this.#crash(at(this.#bridges, bridge), newBridge());
  }

  /** Takes a job, or goes on with the one it has. */
  work(worker: number): void {
    const actor = at(this.#workers, worker);
    actor.process ??= runJob(this.world, actor.memory);
    this.#goOn(actor);
  }

  crashWorker(worker: number): void {
    this.#crash(at(this.#workers, worker), newWorker());
  }

  renewLease(worker: number): void {
    renewLease(this.world, at(this.#workers, worker).memory);
  }

  lookForCancel(worker: number): void {
    lookForCancel(at(this.#workers, worker).memory.job);
  }

  renewLock(worker: number): void {
    const { delivery } = at(this.#workers, worker).memory;
    if (delivery) this.world.queue.renewLock(delivery, this.world.now);
  }

  pass(seconds: number): void {
    this.world.now += seconds;
    this.world.provider.forgetLate(this.world.now);
    // Postgres ends the sessions of ours that idle in a transaction; a business transaction may take as long as it likes.
    const isIdle = (tx: Transaction | undefined) =>
      tx !== undefined && this.world.db.isOpen(tx) && this.world.now - tx.beganAt > IDLE_SECONDS;
    for (const actor of this.#bridges) if (isIdle(actor.memory.tx)) this.#drop(actor);
    for (const actor of this.#workers) if (isIdle(actor.memory.tx)) this.#crash(actor, newWorker());
  }

  /** Faults stop, and everything is run to the end. */
  comeToRest(): void {
    this.world.provider.mood = 'answers';
    this.#settleEpochs();
    const { watch } = this.world;
    for (let round = 0; round < MOST_ROUNDS && !this.#isAtRest && watch.violation === undefined; round += 1) {
      this.#goRound();
      this.pass(SECONDS_A_ROUND);
    }
    watch.lookAtTheEnd(this.world, this.#isAtRest);
  }

  /** What bridges have under way ends, and then both compare the epochs: nothing may stand under an older one. */
  #settleEpochs(): void {
    const row = () => this.world.db.queue;
    for (const actor of [...this.#bridges, ...this.#bridges]) this.#goOnUntilQuiet(actor);
    for (const index of [0, 1]) if (!this.world.db.isLocked(row())) this.#do(index, followEpoch);
    const settled = this.#bridges.every(({ process }) => process === undefined);
    // A row that a business transaction holds is skipped; it is looked for again.
    if (settled && this.world.db.rows.every((each) => !this.world.db.isLocked(each))) {
      this.world.watch.lookAtEpochs(this.world);
    }
  }

  #goRound(): void {
    for (const actor of this.#users) this.#goOnUntilQuiet(actor);
    for (const index of [0, 1]) {
      for (const task of [followEpoch, publish, carryOutRemovals, scan]) this.#do(index, task);
    }
    this.world.queue.redeliverStalled(this.world.now);
    for (const index of [0, 1]) {
      this.renewLease(index);
      this.renewLock(index);
      for (let step = 0; step < STEPS_OF_A_RUN; step += 1) this.work(index);
    }
  }

  #do(index: number, task: (world: World, memory: Bridge) => Process): void {
    this.#goOnUntilQuiet(at(this.#bridges, index));
    this.bridge(index, task);
    this.#goOnUntilQuiet(at(this.#bridges, index));
  }

  get #isAtRest(): boolean {
    const { db, queue } = this.world;
    return (
      db.isQuiet &&
      db.ready.length === 0 &&
      db.removals.length === 0 &&
      db.rows.every(isOver) &&
      [...queue.jobs].every(({ id }) => !queue.isOpen(id)) &&
      [...this.#users, ...this.#bridges, ...this.#workers].every(({ process }) => process === undefined)
    );
  }

  #goOnUntilQuiet(actor: Actor<unknown>): void {
    for (let step = 0; step < STEPS_OF_A_RUN && actor.process; step += 1) this.#goOn(actor);
  }

  #goOn(actor: Actor<unknown>): void {
    if (!actor.process || this.world.watch.violation !== undefined) return;
    const { done, value } = actor.process.next();
    if (done) actor.process = undefined;
    this.trace.push(done ? 'done' : value);
    this.world.watch.look(this.world);
  }

  /** The transaction ends with its session, and so does what was under way. */
  #drop(actor: Actor<{ tx: Transaction | undefined }>): void {
    if (actor.memory.tx) this.world.db.rollback(actor.memory.tx);
    actor.process = undefined;
  }

  #crash<Memory extends { tx: Transaction | undefined }>(actor: Actor<Memory>, memory: Memory): void {
    this.#drop(actor);
    actor.memory = memory;
  }
}

/** Enough for every backoff, lease and settle time one after the other. */
const MOST_ROUNDS = 200;
const SECONDS_A_ROUND = 10;
/** More steps than any piece of work has. */
const STEPS_OF_A_RUN = 24;

function pair<Memory>(memory: () => Memory): [Actor<Memory>, Actor<Memory>] {
  return [
    { memory: memory(), process: undefined },
    { memory: memory(), process: undefined },
  ];
}

function at<Memory>([first, second]: [Actor<Memory>, Actor<Memory>], index: number): Actor<Memory> {
  return index === 0 ? first : second;
}

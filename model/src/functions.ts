import { bullIdOf, isOver, type JobName, type Key, type Row, type State, type Transaction } from './postgres.ts';
import type { Process, World } from './world.ts';

/** Until when a key is held: until the first claim, or until the end. */
export const UNIQUE: Record<JobName, 'waiting' | 'open'> = {
  reminder: 'waiting',
  'pause check': 'waiting',
  sync: 'open',
};

/** In seconds. */
const DELAY: Record<JobName, number> = { reminder: 0, sync: 0, 'pause check': 20 };

/** infra/postgres/functions/20_enqueue.sql: adds a job, or makes sure that the one it duplicates runs after our commit. */
export function* enqueue(world: World, tx: Transaction, name: JobName, key: Key): Process {
  for (;;) {
    while (world.db.isBeingInserted(tx, name, key)) yield 'waits for another insert of its key';
    const holder = world.db.holder(tx, name, key);
    if (!holder) {
      insert(world, tx, name, key);
      return;
    }
    if (world.broken('duplicate enqueue as a plain no-op')) return;
    if (world.db.isLocked(holder, tx)) {
      yield 'waits for the row it duplicates';
      continue; // it may have let go of the key meanwhile
    }
    // Locked until our transaction ends: no claim before. A run under way, or one that is cancelled, will not act on our
    // change: another row follows.
    const locked = world.db.edit(tx, holder);
    if (locked.state === 'active' || locked.cancelRequested) locked.rerun = true;
    return;
  }
}

function insert(world: World, tx: Transaction, name: JobName, key: Key): void {
  const row: Row = {
    id: world.db.nextJobId(),
    name,
    key,
    state: 'pending',
    generation: 1,
    run: 0,
    attempt: 0,
    interruptions: 0,
    scheduledAt: world.now + DELAY[name],
    lockedUntil: undefined,
    holdsKey: true,
    rerun: false,
    cancelRequested: false,
    publishedEpoch: undefined,
    publishedAt: -1,
    startedAt: -1,
  };
  tx.rows.push(row);
  makeReady(world, tx, row);
}

function makeReady(world: World, tx: Transaction, { id, generation }: Row): void {
  tx.ready.push({ id: world.db.nextReadyId(), jobId: id, generation, retryAt: 0 });
}

/** Ends a row, whoever does: its key is free, and the change that came too late for its run gets a row of its own. */
export function end(world: World, tx: Transaction, row: Row, state: State): void {
  row.state = state;
  row.lockedUntil = undefined;
  row.holdsKey = false;
  if (row.rerun) insert(world, tx, row.name, row.key);
}

/**
 * infra/postgres/functions/60_cancel.sql: cancels the open jobs of a key. One that runs, or has a call that nobody can tell
 * of, is asked to and ends later; a job whose own write this is (`currentJob`) is left alone. A row we waited for may have
 * ended and been followed by another, which was not there when we looked: so we look again.
 */
export function* cancel(world: World, tx: Transaction, key: Key, currentJob?: number): Process {
  const spared = world.broken("the job's own write cancels it") ? undefined : currentJob;
  const isLeft = (row: Row) => row.key === key && row.id !== spared && isLeftToCancel(world.db.see(tx, row));
  for (let left = world.db.rows.find(isLeft); left; left = world.db.rows.find(isLeft)) {
    if (world.db.isLocked(left, tx)) {
      yield 'waits for a row to cancel';
      continue;
    }
    const row = world.db.edit(tx, left);
    row.rerun = false;
    row.cancelRequested = true;
    if (row.state === 'active' || hasOpenCalls(world, row.id)) continue;
    end(world, tx, row, 'cancelled');
    tx.removals.push({ bullId: bullIdOf(row) });
  }
}

function isLeftToCancel(row: Row): boolean {
  return !isOver(row) && (!row.cancelRequested || row.rerun);
}

/** A call of this job, by whichever run, may or may not have been carried out. */
export function hasOpenCalls(world: World, jobId: number): boolean {
  return [...world.db.effects.values()].some((effect) => effect.jobId === jobId && effect.state === 'started');
}

/** infra/postgres/functions/50_unpublish.sql: takes rows back that BullMQ has lost. Locked ones are skipped. */
export function unpublish(world: World, lost: Pick<Row, 'id' | 'generation'>[]): number {
  const tx = world.db.begin(world.now);
  let returned = 0;
  for (const { id, generation } of lost) {
    const row = world.db.find(id);
    if (row?.generation !== generation || world.db.isLocked(row, tx)) continue;
    const leaseIsOver = row.state === 'active' && isPast(world, row.lockedUntil);
    if (row.state !== 'published' && !leaseIsOver) continue;
    const back = world.db.edit(tx, row);
    if (leaseIsOver) Object.assign(back, { attempt: back.attempt - 1, interruptions: back.interruptions + 1 });
    if (!world.broken('re-add the same id after a rebuild')) back.generation += 1;
    Object.assign(back, { state: 'pending', lockedUntil: undefined, publishedEpoch: undefined });
    makeReady(world, tx, back);
    returned += 1;
  }
  world.db.commit(tx);
  return returned;
}

export function isPast(world: World, at: number | undefined): boolean {
  return at !== undefined && at < world.now;
}

import { unpublish } from './functions.ts';
import { bullIdOf, isOver, type Ready, type Row, type Transaction } from './postgres.ts';
import type { Process, World } from './world.ts';

/** services/bridge/src/reconcile.ts, STRAGGLERS_FOR_MS and FIND_OPEN. */
const STRAGGLERS_SECONDS = 60;
const LEASE_OVER_SECONDS = 30;
/** Small, so that two bridges have something to share. */
const BATCH = 2;

/** What one process remembers. */
export interface Bridge {
  tx: Transaction | undefined;
  seenEpoch: number | undefined;
  /** From a change of epoch until a look after `stragglersUntil` finds nothing older. */
  looksForOlder: boolean;
  stragglersUntil: number;
}

export function newBridge(): Bridge {
  return { tx: undefined, seenEpoch: undefined, looksForOlder: false, stragglersUntil: -1 };
}

/** services/bridge/src/publish.ts, publishPicked: pick, add, mark, remove. */
export function* publish(world: World, bridge: Bridge): Process {
  const tx = (bridge.tx = world.db.begin(world.now));
  const picked = pick(world, tx); // 1
  const current = picked.map(({ jobId }) => world.db.find(jobId)).filter((row) => row !== undefined);
  const jobs = current
    .filter((row) => row.state === 'pending' && picked.some((entry) => isOf(entry, row)))
    .map((row) => ({ row, bullId: bullIdOf(row), generation: row.generation, dueAt: row.scheduledAt }));
  const { epoch } = world.db.queue; // before the add: if the data is lost from here on, the row will not match
  if (picked.length === 0) return world.db.commit(tx);
  yield 'publish.picked';
  for (const { bullId, dueAt } of jobs) world.queue.add(bullId, dueAt); // 2
  yield 'publish.added';
  for (const { row, generation, bullId } of jobs) {
    if (markPublished(world, tx, row, generation, epoch)) continue; // 3
    // Cancelled between pick and mark: it was taken out of BullMQ before it was added.
    if (row.state === 'cancelled' || row.generation !== generation) tx.removals.push({ bullId });
  }
  yield 'publish.marked';
  for (const entry of picked) removeSettled(world, tx, entry); // 4
  world.db.commit(tx);
}

/** PICK_READY: what other bridges hold is skipped. */
function pick(world: World, tx: Transaction): Ready[] {
  const isNext = world.broken('cursor (id > last) publishing')
    ? (entry: Ready) => entry.id > world.db.cursor
    : (entry: Ready) => entry.retryAt <= world.now;
  const picked = world.db.ready.filter((entry) => isNext(entry) && !world.db.isLocked(entry, tx)).slice(0, BATCH);
  for (const entry of picked) tx.locks.add(entry);
  const last = Math.max(world.db.cursor, ...picked.map(({ id }) => id));
  tx.onCommit.push(() => (world.db.cursor = last));
  return picked;
}

/** MARK_PUBLISHED: `where state = 'pending' and generation = $g … skip locked`. */
function markPublished(world: World, tx: Transaction, row: Row, generation: number, epoch: number): boolean {
  if (row.state !== 'pending' || row.generation !== generation || world.db.isLocked(row, tx)) return false;
  const marked = world.db.edit(tx, row);
  Object.assign(marked, { state: 'published', publishedEpoch: epoch, publishedAt: world.watch.moment });
  return true;
}

/** REMOVE_SETTLED and PUT_OFF. */
function removeSettled(world: World, tx: Transaction, entry: Ready): void {
  const row = world.db.find(entry.jobId);
  const waitsStill = row !== undefined && isOf(entry, row) && world.db.see(tx, row).state === 'pending';
  if (waitsStill) world.db.edit(tx, entry).retryAt = world.now + 1;
  else tx.deleted.add(entry);
}

function isOf({ jobId, generation }: Ready, row: Row): boolean {
  return row.id === jobId && row.generation === generation;
}

/** services/bridge/src/removals.ts. */
export function* carryOutRemovals(world: World, bridge: Bridge): Process {
  const tx = (bridge.tx = world.db.begin(world.now));
  const taken = world.db.removals.filter((removal) => !world.db.isLocked(removal, tx));
  for (const removal of taken) {
    tx.locks.add(removal);
    tx.deleted.add(removal);
  }
  if (taken.length > 0) yield 'removals.taken';
  for (const { bullId } of taken) world.queue.remove(bullId);
  if (taken.length > 0) yield 'removals.done';
  world.db.commit(tx);
}

/** services/bridge/src/reconcile.ts, the first net: a queue's data that is gone as a whole. */
export function* followEpoch(world: World, bridge: Bridge): Process {
  const inQueue = world.queue.epoch;
  yield 'epoch read';
  const epoch = world.db.queue.epoch === inQueue ? inQueue : yield* agreeOnEpoch(world, bridge);
  const changed = epoch !== bridge.seenEpoch;
  bridge.seenEpoch = epoch;
  if (changed) lookForStragglers(world, bridge);
  // A publish that was under way commits later, with the older number: the last look comes after it can.
  const looks = world.broken('epoch compared only at rebuild time') ? changed : bridge.looksForOlder;
  if (looks) yield* takeBackOlder(world, bridge);
}

function lookForStragglers(world: World, bridge: Bridge): void {
  bridge.looksForOlder = true;
  bridge.stragglersUntil = world.now + STRAGGLERS_SECONDS;
}

/** agreeOnEpoch: bridges take turns; a crash after the write to the queue is mended by the next look. */
function* agreeOnEpoch(world: World, bridge: Bridge): Process<number> {
  const tx = (bridge.tx = world.db.begin(world.now));
  while (world.db.isLocked(world.db.queue, tx)) yield 'waits for the epoch';
  const epoch = world.db.edit(tx, world.db.queue);
  Object.assign(epoch, world.db.queue); // as it is now that we have it
  yield 'epoch locked';
  if (world.queue.epoch !== epoch.epoch) {
    epoch.epoch += 1;
    world.queue.epoch = epoch.epoch;
    yield 'epoch.written';
  }
  world.db.commit(tx);
  return epoch.epoch;
}

/** takeBackOlder. Rows that somebody has locked are still there at the next look. */
function* takeBackOlder(world: World, bridge: Bridge): Process {
  const isLastLook = world.now > bridge.stragglersUntil;
  const older = world.db.rows
    .filter((row) => row.state === 'published' || leaseOverSince(world, row, 0))
    .filter((row) => row.publishedEpoch !== world.db.queue.epoch)
    .map(({ id, generation }) => ({ id, generation }));
  if (older.length === 0) {
    bridge.looksForOlder = !isLastLook;
    return;
  }
  lookForStragglers(world, bridge);
  yield 'older rows found';
  unpublish(world, older);
}

/** findLost and takeBack, the nets for a loss in part. BullMQ is asked after the rows were read. */
export function* scan(world: World, bridge: Bridge): Process {
  const open = world.db.rows
    .filter((row) => !isOver(row) && (row.state === 'published' || leaseOverSince(world, row, LEASE_OVER_SECONDS)))
    .map((row) => ({ id: row.id, generation: row.generation }));
  if (open.length === 0) return;
  yield 'rows read';
  const lost = open.filter((row) => !world.queue.isOpen(bullIdOf(row)));
  if (lost.length === 0) return;
  yield* followEpoch(world, bridge);
  yield 'epoch followed';
  unpublish(world, lost);
}

function leaseOverSince(world: World, { state, lockedUntil }: Row, seconds: number): boolean {
  return state === 'active' && lockedUntil !== undefined && lockedUntil + seconds < world.now;
}

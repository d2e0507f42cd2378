import { cancel, enqueue } from './functions.ts';
import type { JobName, Key, Transaction } from './postgres.ts';
import type { Process, World } from './world.ts';

export type Deed = 'change' | 'pause' | 'resume' | 'plan a pause check';

/** The job that a change of each object writes: one that is unique while it waits, one while it is open. */
export const JOB_OF: Record<Key, JobName> = { a: 'reminder', b: 'sync' };

/** One transaction of the host application. What its triggers do is part of it (packages/jobs/src/reminders/trigger.sql). */
export function* transact(world: World, tx: Transaction, deed: Deed, key: Key): Process {
  yield 'began';
  yield* lockSync(world, tx, key);
  const sync = world.db.edit(tx, world.db.syncs[key]);
  yield 'wrote';
  switch (deed) {
    case 'change':
      if (sync.running) yield* changed(world, tx, key, true);
      break;
    case 'pause':
      if (sync.running) yield* pause(world, tx, key);
      break;
    case 'resume':
      if (!sync.running) yield* changed(world, tx, key, true);
      break;
    case 'plan a pause check':
      if (sync.running) yield* enqueue(world, tx, 'pause check', key);
      break;
  }
  yield 'about to commit';
  world.db.commit(tx);
}

export function* lockSync(world: World, tx: Transaction, key: Key): Process {
  while (world.db.isLocked(world.db.syncs[key], tx)) yield 'waits for the sync';
}

/** Writes a sync that is running and captures the change. */
function* changed(world: World, tx: Transaction, key: Key, running: boolean): Process {
  const sync = world.db.edit(tx, world.db.syncs[key]);
  sync.running = running;
  sync.version += 1;
  yield* enqueue(world, tx, JOB_OF[key], key);
  tx.onCommit.push(() => world.watch.changed(key, sync));
}

/** Writes the status that cancels. `currentJob` is set when a job does it itself (outbox.current_job). */
export function* pause(world: World, tx: Transaction, key: Key, currentJob?: number): Process {
  const sync = world.db.edit(tx, world.db.syncs[key]);
  sync.running = false;
  sync.version += 1;
  yield* cancel(world, tx, key, currentJob);
  tx.onCommit.push(() => {
    world.watch.changed(key, sync);
    world.watch.cancelled(key, world.db, currentJob);
  });
}

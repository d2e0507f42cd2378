import type { Pool, QueueBackend } from '@outbox/core';
import { BEGINNING } from './cursor.ts';
import { countLost, EVER_MS, findLost, takeBackLost } from './lost-jobs.ts';
import { confirmOrphans, findSuspects, removeOrphans } from './orphans.ts';
import { addRepaired, Findings } from './repairs.ts';

export interface LookThroughOptions {
  pool: Pool;
  backend: QueueBackend;
  queues: readonly string[];
  /** True: nothing is changed. */
  dryRun: boolean;
  /** Called before rows are taken back one by one: if everything was lost a moment ago, they would be so twice. */
  followEpochs: () => Promise<unknown>;
}

/** `page`: go on whenever you like. `settle`: what is in flight needs a second before the same is looked at again. */
export type Step = 'page' | 'settle';

/**
 * Compares all published rows with BullMQ, and all waiting jobs of BullMQ with the rows, a thousand at a time, and repairs
 * what differs. Whoever iterates sets the pace; the result is what was found, by queue and class. An error ends it: begin
 * anew. What was repaired before stays so. May run side by side with another.
 */
export async function* lookThrough(options: LookThroughOptions): AsyncGenerator<Step, Findings, undefined> {
  const found = new Findings(options.queues);
  yield* lookForLost(options, found);
  for (const queue of options.queues) yield* lookForOrphans(options, queue, found);
  return found;
}

async function* lookForLost(options: LookThroughOptions, found: Findings): AsyncGenerator<Step, void, undefined> {
  const { pool, queues, dryRun } = options;
  let cursor = BEGINNING;
  do {
    const { lost, next } = await findLost(options, { cursor, withinMs: EVER_MS });
    if (lost.length > 0 && !dryRun) await options.followEpochs();
    const differing = await (dryRun ? countLost : takeBackLost)(pool, queues, lost);
    if (!dryRun) await addRepaired(pool, differing);
    found.addAll(differing);
    cursor = next;
    yield 'page';
  } while (cursor !== BEGINNING);
}

async function* lookForOrphans(
  options: LookThroughOptions,
  queue: string,
  found: Findings,
): AsyncGenerator<Step, void, undefined> {
  const { pool, queues, dryRun } = options;
  let cursor: string | undefined;
  do {
    const { suspects, next } = await findSuspects(options, queue, cursor);
    yield suspects.length > 0 ? 'settle' : 'page';
    const orphans = await confirmOrphans(options, queue, suspects);
    const differing = new Findings(queues);
    differing.add(queue, 'orphaned', orphans.length);
    if (!dryRun) {
      await removeOrphans(pool, queue, orphans);
      await addRepaired(pool, differing);
    }
    found.addAll(differing);
    cursor = next;
  } while (cursor !== undefined);
}

import { SECOND } from '@outbox/core';
import { waitFor } from '@outbox/testing';
import type { Contestant, Running } from './contestants/contestant.ts';
import type { Stage } from './stage.ts';
import { monotonicMs, newStartsFile, readStarts } from './starts.ts';

const WARM_UP_JOBS = 500;
const WARM_UP_S = 2;

/**
 * Milliseconds from commit to start of each job of one round at `rate` commits a second: starts the processes of a contestant,
 * warms them up, measures, and stops them.
 */
export async function measureLatency(
  stage: Stage,
  contestant: Contestant,
  rate: number,
  seconds: number,
): Promise<number[]> {
  const startsFile = newStartsFile(stage.folder);
  const running = await contestant.start(stage, { startsFile });
  try {
    await running.add(WARM_UP_JOBS);
    await running.drained();
    // The connections of the business are warm, too: each plans its triggers with its first rows.
    await commitAtRate(running, rate, rate * WARM_UP_S);
    await running.drained();
    const committed = await commitAtRate(running, rate, rate * seconds);
    await running.drained();
    return await waitFor(async () => {
      const starts = await readStarts(startsFile);
      return committed.map(({ id, atMs }) => {
        const start = starts.get(id);
        if (!start) throw new Error(`${contestant.name} has not said that it started ${id}.`);
        return start.monotonicMs - atMs;
      });
    });
  } finally {
    await running.stop();
  }
}

interface Committed {
  id: string;
  /** Monotonic. */
  atMs: number;
}

/** Adds one after the other at its time, without waiting for those before: a slow commit delays no other. */
async function commitAtRate(running: Running, rate: number, count: number): Promise<Committed[]> {
  const beganMs = monotonicMs();
  const commits: Promise<Committed>[] = [];
  while (commits.length < count) {
    const dueMs = beganMs + (commits.length * SECOND) / rate;
    await untilMs(dueMs);
    commits.push(running.addOne().then((id) => ({ id, atMs: monotonicMs() })));
  }
  return Promise.all(commits);
}

function untilMs(dueMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, dueMs - monotonicMs()));
}

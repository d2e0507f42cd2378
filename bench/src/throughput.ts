import { SECOND } from '@outbox/core';
import type { Contestant } from './contestants/contestant.ts';
import type { Stage } from './stage.ts';

const WARM_UP_JOBS = 2_000;

/** Jobs a second of one round: starts the processes of a contestant, warms them up, measures, and stops them. */
export async function measureThroughput(stage: Stage, contestant: Contestant, jobs: number): Promise<number> {
  const running = await contestant.start(stage);
  try {
    await running.add(WARM_UP_JOBS);
    await running.drained();
    const startedAt = performance.now();
    await running.add(jobs);
    await running.drained();
    return jobs / ((performance.now() - startedAt) / SECOND);
  } finally {
    await running.stop();
  }
}

import type { Stage } from '../stage.ts';

/** A job system as its users would run it, with jobs that do nothing. */
export interface Contestant {
  readonly name: string;
  /** Version, and what it is set to. */
  readonly settings: string;
  /** Starts its processes; resolves when they are ready to work. What they have in Postgres and Redis may be there already. */
  start(stage: Stage): Promise<Running>;
}

export interface Running {
  /** Adds so many jobs that are due at once, `CHUNK` in each transaction; resolves when all are committed. */
  add(count: number): Promise<void>;
  /** Resolves when all that were added have been run, and this is recorded. */
  drained(): Promise<void>;
  stop(): Promise<void>;
}

/** Rows of one transaction: what a busy application would write in one statement. */
export const CHUNK = 1_000;

export async function inChunks(count: number, add: (chunk: number) => Promise<unknown>): Promise<void> {
  for (let left = count; left > 0; left -= CHUNK) await add(Math.min(left, CHUNK));
}

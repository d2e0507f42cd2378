import type { Pool } from '@outbox/core';
import { STARTS_FILE } from '../starts.ts';
import type { Stage } from '../stage.ts';

/** A job system as its users would run it, with jobs that do nothing. */
export interface Contestant {
  readonly name: string;
  /** Version, and what it is set to. */
  readonly settings: string;
  /** Starts its processes; resolves when they are ready to work. What they have in Postgres and Redis may be there already. */
  start(stage: Stage, options?: StartOptions): Promise<Running>;
}

export interface StartOptions {
  /** Where its handlers note when they start. */
  startsFile?: string;
}

export interface Running {
  /** What its processes are for, by process id; of contestants whose processor time is compared. */
  readonly processes?: ReadonlyMap<number, string>;
  /** Adds so many jobs that are due at once, `CHUNK` in each transaction; resolves when all are committed. */
  add(count: number): Promise<void>;
  /** Adds one in a transaction of its own; resolves, when it is committed, to the id that its handler notes. */
  addOne(): Promise<string>;
  /** Resolves when all that were added have been run, and this is recorded. */
  drained(): Promise<void>;
  stop(): Promise<void>;
}

/** Rows of one transaction: what a busy application would write in one statement. */
export const CHUNK = 1_000;

export async function inChunks(count: number, add: (chunk: number) => Promise<unknown>): Promise<void> {
  for (let left = count; left > 0; left -= CHUNK) await add(Math.min(left, CHUNK));
}

/** What a process that runs handlers needs in its environment to note when they start. */
export function noteStarts({ startsFile }: StartOptions): Record<string, string> {
  return startsFile === undefined ? {} : { [STARTS_FILE]: startsFile };
}

/** Inserts one row of a business table; resolves to its id. */
export async function insertOne(pool: Pool, table: string): Promise<string> {
  const { rows } = await pool.query<{ id: string }>(`insert into ${table} default values returning id`);
  return rows[0]?.id ?? '';
}

import type { Queryable } from '@outbox/core';

/**
 * What differs between a row and BullMQ:
 * - `epoch`: the row was published into data that is gone as a whole
 * - `missing`: BullMQ does not have the job
 * - `ended`: BullMQ has it as completed or failed; the row has not ended
 * - `stranded`: BullMQ has half of it
 * - `late`: the row is overdue, and BullMQ hands the job out much later
 * - `orphaned`: BullMQ means to run a job whose row has ended, is gone, or lives under another generation
 */
export const DRIFT_CLASSES = ['epoch', 'missing', 'ended', 'stranded', 'late', 'orphaned'] as const;

export type DriftClass = (typeof DRIFT_CLASSES)[number];

const ADD_REPAIRED = /* sql */ `
  insert into outbox.repairs as r (queue, class, repaired, repaired_at)
  select f.queue, f.class, f.found, clock_timestamp()
  from unnest($1::text[], $2::text[], $3::int[]) as f (queue, class, found)
  where f.found > 0
  order by f.queue, f.class
  on conflict (queue, class) do update
  set repaired = r.repaired + excluded.repaired, repaired_at = excluded.repaired_at`;

const SET_DRIFT = /* sql */ `
  insert into outbox.repairs as r (queue, class, drift, looked_at)
  select f.queue, f.class, f.found, clock_timestamp()
  from unnest($1::text[], $2::text[], $3::int[]) as f (queue, class, found)
  order by f.queue, f.class
  on conflict (queue, class) do update
  set drift = excluded.drift, looked_at = excluded.looked_at`;

/** What was found to differ, by queue and class. */
export class Findings {
  readonly #counts = new Map<string, Record<DriftClass, number>>();

  constructor(queues: readonly string[]) {
    for (const queue of queues)
      this.#counts.set(queue, { epoch: 0, missing: 0, ended: 0, stranded: 0, late: 0, orphaned: 0 });
  }

  add(queue: string, driftClass: DriftClass, found: number): void {
    const counts = this.#counts.get(queue);
    if (counts) counts[driftClass] += found;
  }

  addAll(others: Findings): void {
    for (const { queue, class: driftClass, found } of others.entries()) this.add(queue, driftClass, found);
  }

  get total(): number {
    return this.entries().reduce((sum, { found }) => sum + found, 0);
  }

  /** Every queue with every class, also where nothing was found. */
  entries(): { queue: string; class: DriftClass; found: number }[] {
    return [...this.#counts].flatMap(([queue, counts]) =>
      DRIFT_CLASSES.map((each) => ({ queue, class: each, found: counts[each] })),
    );
  }
}

/** Adds to what has been repaired in all. */
export async function addRepaired(db: Queryable, findings: Findings): Promise<void> {
  if (findings.total > 0) await db.query(ADD_REPAIRED, columnsOf(findings));
}

/** Says what a look at everything has found: 0 where nothing differs. */
export async function setDrift(db: Queryable, findings: Findings): Promise<void> {
  await db.query(SET_DRIFT, columnsOf(findings));
}

function columnsOf(findings: Findings): unknown[] {
  const entries = findings.entries();
  return [entries.map(({ queue }) => queue), entries.map((entry) => entry.class), entries.map(({ found }) => found)];
}

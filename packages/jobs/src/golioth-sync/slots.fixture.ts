import type { Queryable } from '@outbox/core';
import type { Schedule } from './slot-oracle.fixture.ts';

/** Only tests import this. */
const CHAIN = /* sql */ `
  with recursive chain as (
    select 1 as n, golioth.next_slot($1, $2, $3, $4, $5, $6) as slot
    union all
    select n + 1, golioth.next_slot(slot, $2, $3, $4, $5, $6) from chain where n < $7
  )
  select slot from chain order by n`;

/** The next `count` slots of a schedule as the database sees them, each asked for at the one before. */
export async function nextSlots(db: Queryable, schedule: Schedule, after: Date, count: number): Promise<Date[]> {
  const { createdAt, frequencyMinutes, window, timezone } = schedule;
  const { rows } = await db.query<{ slot: Date }>(CHAIN, [
    after,
    createdAt,
    frequencyMinutes,
    window === undefined ? null : timeOf(window.opens),
    window === undefined ? null : timeOf(window.closes),
    timezone,
    count,
  ]);
  return rows.map(({ slot }) => slot);
}

/** Seconds since midnight as `hh:mm:ss`. */
export function timeOf(seconds: number): string {
  return [seconds / 3600, (seconds / 60) % 60, seconds % 60]
    .map((part) => String(Math.floor(part)).padStart(2, '0'))
    .join(':');
}

import { DAY, HOUR, SECOND, type Queryable } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import fc from 'fast-check';
import { clockSettings, slotsAfter, type Schedule } from './slot-oracle.fixture.ts';
import { nextSlots } from './slots.fixture.ts';

/** Ten years, and the days around them that the oracle looks at. */
const FROM = Date.UTC(2017, 0, 1);
const UNTIL = Date.UTC(2027, 0, 1);
const KNOWN = [FROM - 28 * DAY, UNTIL + 56 * DAY] as const;

const RUNS = 1_500;
const SLOTS = 4;

let database: TestDatabase;
let zones: string[];

beforeAll(async () => {
  database = await createTestDatabase();
  zones = await zonesOfBothDatabases(database.pool);
}, 60_000);
afterAll(() => database.drop());

/** The zones of Node of which PostgreSQL's time zone data, which may be of another year, says the same. */
async function zonesOfBothDatabases(db: Queryable): Promise<string[]> {
  const agreed: string[] = [];
  for (const zone of Intl.supportedValuesOf('timeZone')) {
    const changes = clockSettings(zone, ...KNOWN).flatMap(({ from }) => [from - SECOND, from]);
    const months = Array.from({ length: 126 }, (_, n) => KNOWN[0] + n * 30 * DAY);
    const instants = [...changes.slice(1), ...months].sort((a, b) => a - b);
    const { rows } = await db.query<{ offsets: number[] | null }>(
      /* sql */ `
      select array_agg((1000 * extract(epoch from golioth.utc_offset(to_timestamp(i / 1000.0), $1)))::int order by i) as offsets
      from unnest($2::bigint[]) as i
      where golioth.is_timezone($1)`,
      [zone, instants],
    );
    if (String(rows[0]?.offsets) === String(instants.map((instant) => offsetAt(zone, instant)))) agreed.push(zone);
  }
  return agreed;
}

function offsetAt(zone: string, instant: number): number | undefined {
  return clockSettings(zone, ...KNOWN).findLast(({ from }) => from <= instant)?.offsetMs;
}

/** A zone and an instant, often close to a change of its clock. */
function moment(): fc.Arbitrary<{ timezone: string; after: Date }> {
  return fc.constantFrom(...zones).chain((timezone) => {
    const changes = clockSettings(timezone, ...KNOWN)
      .map(({ from }) => from)
      .filter((change) => change > FROM && change < UNTIL);
    const anyTime = fc.integer({ min: FROM / SECOND, max: UNTIL / SECOND }).map((second) => second * SECOND);
    const nearChange = fc
      .tuple(fc.constantFrom(FROM, ...changes), fc.integer({ min: -30 * 60, max: 30 * 60 }))
      .map(([change, minutes]) => change + minutes * 60 * SECOND);
    return fc
      .tuple(changes.length > 0 ? fc.oneof(anyTime, nearChange, nearChange) : anyTime, fc.integer({ min: 0, max: 999 }))
      .map(([instant, ms]) => ({ timezone, after: new Date(instant + ms) }));
  });
}

const minuteOfDay = fc.oneof(
  fc.constantFrom(0, 30, 60, 90, 120, 150, 180, 240, 1380, 1410),
  fc.integer({ min: 0, max: 1439 }),
);
const secondOfDay = fc.oneof(
  minuteOfDay.map((minute) => minute * 60),
  fc.integer({ min: 0, max: 86_399 }),
);
const window = fc.record({ opens: secondOfDay, closes: secondOfDay });
const frequencyMinutes = fc.oneof(
  fc.constantFrom(1, 5, 7, 15, 30, 60, 90, 1440, 10_080),
  fc.integer({ min: 1, max: 3_000 }),
);

test('Node and PostgreSQL know at least 400 zones alike, some with half hours and some that change at midnight', () => {
  expect(zones.length).toBeGreaterThan(400);
  const quirks = ['Asia/Calcutta', 'Australia/Lord_Howe', 'America/Havana', 'America/Santiago', 'Africa/Casablanca'];
  expect(zones).toEqual(expect.arrayContaining(quirks));
});

test('in any zone of ten years, with any window, the slots are those of the rule, wherever one looks from', async () => {
  const schedules = fc.record({ moment: moment(), window, frequencyMinutes });
  await fc.assert(
    fc.asyncProperty(schedules, async ({ moment: { timezone, after }, ...rest }) => {
      const schedule: Schedule = { ...rest, timezone, createdAt: new Date(0) };
      expect(await nextSlots(database.pool, schedule, after, SLOTS)).toEqual(slotsAfter(schedule, after, SLOTS, KNOWN));
    }),
    { numRuns: RUNS },
  );
}, 120_000);

test('without a window they are created_at and whole frequencies of elapsed time, in any zone', async () => {
  const instant = fc.date({ min: new Date(FROM), max: new Date(UNTIL), noInvalidDate: true });
  const schedules = fc.record({ moment: moment(), createdAt: instant, frequencyMinutes });
  await fc.assert(
    fc.asyncProperty(schedules, async ({ moment: { timezone, after }, ...rest }) => {
      const schedule: Schedule = { ...rest, timezone };
      expect(await nextSlots(database.pool, schedule, after, SLOTS)).toEqual(slotsAfter(schedule, after, SLOTS, KNOWN));
    }),
    { numRuns: RUNS / 3 },
  );
}, 60_000);

test('every slot shows a time of its window on the zone’s clock, unless it is the end of a gap', async () => {
  const schedules = fc.record({ moment: moment(), window, frequencyMinutes });
  await fc.assert(
    fc.asyncProperty(schedules, async ({ moment: { timezone, after }, ...rest }) => {
      const schedule: Schedule = { ...rest, timezone, createdAt: new Date(0) };
      for (const slot of await nextSlots(database.pool, schedule, after, 1)) {
        const jumped = clockSettings(timezone, ...KNOWN).some(({ from }) => from === slot.getTime());
        expect(jumped || isWithin(rest.window, slot, timezone)).toBe(true);
        expect(slot.getTime() - after.getTime()).toBeGreaterThan(0);
        expect(slot.getTime() - after.getTime()).toBeLessThanOrEqual(DAY + 3 * HOUR);
      }
    }),
    { numRuns: RUNS / 3 },
  );
}, 60_000);

function isWithin({ opens, closes }: { opens: number; closes: number }, slot: Date, timezone: string): boolean {
  const offsetMs = offsetAt(timezone, slot.getTime()) ?? NaN;
  const second = ((slot.getTime() + offsetMs) % DAY) / SECOND;
  if (opens === closes) return true;
  return opens < closes ? second >= opens && second < closes : second >= opens || second < closes;
}

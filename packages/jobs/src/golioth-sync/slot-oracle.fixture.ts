import { DAY, MINUTE, SECOND } from '@outbox/core';

/**
 * The slot rule once more, told as a definition and not as a calculation, with Node's own time zone data: all slots are
 * written down, each is looked up on the zone's clock, and the next is the first that is later. Only tests import this.
 */
export interface Schedule {
  createdAt: Date;
  frequencyMinutes: number;
  /** Seconds since midnight; undefined: all the time, from `createdAt` on. */
  window?: { opens: number; closes: number } | undefined;
  timezone: string;
}

/** The zone's clock is `offsetMs` ahead of UTC from `from` on, in epoch milliseconds. */
export interface ClockSetting {
  from: number;
  offsetMs: number;
}

/** In no year of the tests has a zone set its clock twice within this time. */
const BETWEEN_CHANGES_MS = 14 * DAY;

const settings = new Map<string, ClockSetting[]>();

/** How the clock of a zone was set between two instants, in order. */
export function clockSettings(timezone: string, from: number, until: number): ClockSetting[] {
  const known = `${timezone} ${from} ${until}`;
  const found = settings.get(known) ?? findSettings(clockOf(timezone), from, until);
  settings.set(known, found);
  return found;
}

function findSettings(offsetAt: (instant: number) => number, from: number, until: number): ClockSetting[] {
  let last: ClockSetting = { from, offsetMs: offsetAt(from) };
  const found = [last];
  for (let low = from; low < until; low += BETWEEN_CHANGES_MS) {
    let [before, after] = [low, low + BETWEEN_CHANGES_MS];
    const offsetMs = offsetAt(after);
    if (offsetMs === last.offsetMs) continue;
    while (after - before > SECOND) {
      const middle = before + Math.floor((after - before) / (2 * SECOND)) * SECOND;
      if (offsetAt(middle) === offsetMs) after = middle;
      else before = middle;
    }
    last = { from: after, offsetMs };
    found.push(last);
  }
  return found;
}

function clockOf(timezone: string): (instant: number) => number {
  const number = 'numeric';
  const format = new Intl.DateTimeFormat('en-US', {
    ...{ timeZone: timezone, hourCycle: 'h23', calendar: 'iso8601', numberingSystem: 'latn' },
    ...{ year: number, month: number, day: number, hour: number, minute: number, second: number },
  });
  return (instant) => {
    const parts = new Map(format.formatToParts(instant).map(({ type, value }) => [type, Number(value)]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? NaN;
    const shown = Date.UTC(
      ...([part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second')] as const),
    );
    return shown - Math.floor(instant / SECOND) * SECOND;
  };
}

/** The first instant at which a clock so set shows `reading` (as if it were UTC) or a later time. */
function firstInstant(reading: number, clock: ClockSetting[]): number {
  const instants = clock.flatMap(({ from, offsetMs }, index) => {
    const instant = Math.max(from, reading - offsetMs);
    return instant < (clock[index + 1]?.from ?? Infinity) ? [instant] : [];
  });
  return Math.min(...instants);
}

/** Only the settings that matter in the weeks around a day: looking through them all takes long. */
function clockNear(day: number, clock: ClockSetting[]): ClockSetting[] {
  const first = clock.findLastIndex(({ from }) => from < day - 14 * DAY);
  return clock.slice(Math.max(0, first)).filter(({ from }) => from < day + 28 * DAY);
}

/** The next `count` slots after an instant; `from` and `until` are the years whose clock is known. */
export function slotsAfter(
  { createdAt, frequencyMinutes, window, timezone }: Schedule,
  after: Date,
  count: number,
  [from, until]: readonly [number, number],
): Date[] {
  const stepMs = frequencyMinutes * MINUTE;
  if (window === undefined) {
    const origin = Math.floor(createdAt.getTime() / SECOND) * SECOND;
    const passed = Math.max(0, Math.floor((after.getTime() - origin) / stepMs) + 1);
    return Array.from({ length: count }, (_, n) => new Date(origin + (passed + n) * stepMs));
  }
  const lengthMs = (window.closes > window.opens ? 0 : DAY) + (window.closes - window.opens) * SECOND;
  const today = Math.floor(after.getTime() / DAY) * DAY;
  const clock = clockNear(today, clockSettings(timezone, from, until));
  const slots = new Set<number>();
  // A slot a day at least, and the clocks of the world are up to a day from UTC.
  for (let day = today - 3 * DAY; day <= today + (count + 3) * DAY; day += DAY) {
    for (let passedMs = 0; passedMs < lengthMs; passedMs += stepMs) {
      slots.add(firstInstant(day + window.opens * SECOND + passedMs, clock));
    }
  }
  const later = [...slots].filter((slot) => slot > after.getTime()).sort((a, b) => a - b);
  return later.slice(0, count).map((slot) => new Date(slot));
}

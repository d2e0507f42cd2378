import { MINUTE } from '@outbox/core';

/** From one time of day to another, minutes since midnight, the end excluded; over midnight when `from` is the later. */
export interface QuietHours {
  from: number;
  to: number;
}

const MINUTES_PER_DAY = 24 * 60;

/** How long it is quiet every day, milliseconds. */
export function lengthMs({ from, to }: QuietHours): number {
  return ((to - from + MINUTES_PER_DAY) % MINUTES_PER_DAY) * MINUTE;
}

/**
 * Milliseconds from `now` until it is no longer quiet in that time zone (IANA, e.g. Europe/Berlin; UTC for a name nobody
 * knows); 0 when it is not. On the night the clocks change it is up to an hour off: who comes back early asks again.
 */
export function quietForMs(hours: QuietHours, timeZone: string, now: Date): number {
  const minute = minuteOfDay(timeZone, now);
  const isOver = (minute - hours.from + MINUTES_PER_DAY) % MINUTES_PER_DAY >= lengthMs(hours) / MINUTE;
  if (isOver) return 0;
  const minutesLeft = (hours.to - minute + MINUTES_PER_DAY) % MINUTES_PER_DAY;
  return minutesLeft * MINUTE - (now.getTime() % MINUTE);
}

function minuteOfDay(timeZone: string, now: Date): number {
  const parts = formatterOf(timeZone).formatToParts(now);
  const valueOf = (type: 'hour' | 'minute') => Number(parts.find((part) => part.type === type)?.value);
  return valueOf('hour') * 60 + valueOf('minute');
}

function formatterOf(timeZone: string): Intl.DateTimeFormat {
  const options = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' } as const;
  try {
    return new Intl.DateTimeFormat('en-GB', { ...options, timeZone });
  } catch {
    return new Intl.DateTimeFormat('en-GB', { ...options, timeZone: 'UTC' });
  }
}

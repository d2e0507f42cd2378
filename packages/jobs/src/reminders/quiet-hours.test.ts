import { HOUR, MINUTE, SECOND } from '@outbox/core';
import { lengthMs, quietForMs } from './quiet-hours.ts';

/** 21:00 to 08:00, and a siesta. */
const NIGHT = { from: 21 * 60, to: 8 * 60 };
const SIESTA = { from: 13 * 60, to: 14 * 60 + 30 };

test('their length counts over midnight', () => {
  expect(lengthMs(NIGHT)).toBe(11 * HOUR);
  expect(lengthMs(SIESTA)).toBe(1.5 * HOUR);
});

describe('it is quiet until their end, by the clock on the wall of that zone', () => {
  test.each([
    ['at their beginning', NIGHT, 'UTC', '2031-01-15T21:00:00Z', 11 * HOUR],
    ['before midnight', NIGHT, 'UTC', '2031-01-15T23:30:00Z', 8.5 * HOUR],
    ['after midnight', NIGHT, 'UTC', '2031-01-15T00:15:00Z', 7.75 * HOUR],
    ['a moment before their end', NIGHT, 'UTC', '2031-01-15T07:59:59.5Z', 0.5 * SECOND],
    ['within one day', SIESTA, 'UTC', '2031-01-15T13:00:10Z', 90 * MINUTE - 10 * SECOND],
    ['in a zone to the east', NIGHT, 'Europe/Berlin', '2031-01-15T06:00:00Z', 1 * HOUR],
    ['in the same zone in summer', NIGHT, 'Europe/Berlin', '2031-07-15T05:00:00Z', 1 * HOUR],
    ['in a zone of half hours', NIGHT, 'Asia/Kolkata', '2031-01-15T02:00:00Z', 30 * MINUTE],
    ['in a zone nobody knows, by UTC', NIGHT, 'Mars/Olympus', '2031-01-15T07:00:00Z', 1 * HOUR],
  ])('%s', (_when, hours, zone, now, expected) => {
    expect(quietForMs(hours, zone, new Date(now))).toBe(expected);
  });
});

test.each([
  ['at their end', NIGHT, 'UTC', '2031-01-15T08:00:00Z'],
  ['a moment before their beginning', NIGHT, 'UTC', '2031-01-15T20:59:59.999Z'],
  ['after them, on the same day', SIESTA, 'UTC', '2031-01-15T14:30:00Z'],
  ['while it is night elsewhere', NIGHT, 'America/Los_Angeles', '2031-01-15T23:00:00Z'],
])('it is not quiet %s', (_when, hours, zone, now) => {
  expect(quietForMs(hours, zone, new Date(now))).toBe(0);
});

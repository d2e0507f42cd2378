/** Milliseconds, so that a duration reads as `24 * HOUR` where it is used. */
export const SECOND = 1_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

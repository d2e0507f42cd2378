/**
 * Whether the tests of many jobs run with as many as their promise names. It takes minutes, so it is asked for with
 * FULL=1; otherwise fewer jobs go the same way.
 */
export function atFullSize(): boolean {
  return process.env.FULL === '1';
}

/** BullMQ's range; 1 runs first. */
const HIGHEST = 1;
const LOWEST = 2_097_151;
const MIDDLE = 1_000_000;

/**
 * A row's priority (higher first, may be negative) in BullMQ's numbers (1 first). BullMQ runs jobs without a priority
 * before all that have one, so in a queue that uses priorities every job gets a number; elsewhere none does, which is
 * cheaper.
 */
export function toBullPriority(priority: number, isPrioritized: boolean): number | undefined {
  if (!isPrioritized) return undefined;
  return Math.min(LOWEST, Math.max(HIGHEST, MIDDLE - priority));
}

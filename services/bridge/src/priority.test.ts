import { toBullPriority } from './priority.ts';

const FIRST = 1;
const LAST = 2_097_151;
const INT_MIN = -(2 ** 31);
const INT_MAX = 2 ** 31 - 1;

/** Every edge of the column and of BullMQ's range, and values in between; ascending. */
const PRIORITIES = [
  INT_MIN,
  -2_000_000,
  ...[-1_097_152, -1_097_151, -1_097_150],
  ...[-100_000, -10, -1, 0, 1, 10, 20, 100_000],
  ...[999_998, 999_999, 1_000_000],
  2_000_000,
  INT_MAX,
];

it.each([
  [0, 1_000_000],
  [20, 999_980],
  [-10, 1_000_010],
  [999_999, FIRST],
  [INT_MAX, FIRST],
  [-1_097_151, LAST],
  [INT_MIN, LAST],
])('row priority %i is number %i of BullMQ', (priority, expected) => {
  expect(toBullPriority(priority, true)).toBe(expected);
});

it.each(PRIORITIES)('row priority %i becomes a whole number that BullMQ accepts', (priority) => {
  const bull = toBullPriority(priority, true);
  expect(Number.isInteger(bull)).toBe(true);
  expect(bull).toBeGreaterThanOrEqual(FIRST);
  expect(bull).toBeLessThanOrEqual(LAST);
});

it('a higher row priority never runs after a lower one, and before it wherever BullMQ can tell them apart', () => {
  const mapped = PRIORITIES.map((priority) => toBullPriority(priority, true) ?? NaN);
  const descending = [...mapped].sort((a, b) => b - a);
  expect(mapped).toEqual(descending);
  const inside = mapped.filter((bull) => bull > FIRST && bull < LAST);
  expect(new Set(inside).size).toBe(inside.length);
});

it.each([0, 5, -5, INT_MAX])('a job without priorities gets none, whatever its row says (%i)', (priority) => {
  expect(toBullPriority(priority, false)).toBeUndefined();
});

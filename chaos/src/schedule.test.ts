import { SECOND, STEPS } from '@outbox/core';
import { parseOptions, type Options } from './options.ts';
import { planRun } from './schedule.ts';

function options(...argv: string[]): Options {
  const parsed = parseOptions(['--seed', '7', ...argv]);
  if (parsed === 'help') throw new Error('Nobody asked for help');
  return parsed;
}

it('a seed gives the same faults and the same business again, another seed others', () => {
  const short = ['--seconds', '60'];
  const [first, again] = [planRun(options(...short)), planRun(options(...short))];
  expect(again).toEqual(first);
  const other = planRun(options(...short, '--seed', '8'));
  expect(other.faults).not.toEqual(first.faults);
  expect(other.business.actions).not.toEqual(first.business.actions);
});

it('other faults leave the business of a seed as it is', () => {
  const { business } = planRun(options('--seconds', '60'));
  expect(planRun(options('--seconds', '60', '--faults', 'FLUSHALL')).business).toEqual(business);
});

it('ten minutes have at least 150 faults, a kill at each step among them, and 20,000 auto syncs', () => {
  const { faults, business } = planRun(options('--minutes', '10'));
  expect(faults.length).toBeGreaterThanOrEqual(150);
  expect(new Set(faults.map(({ how }) => how.step).filter(Boolean))).toEqual(new Set(STEPS));
  expect(business.syncs.length).toBeGreaterThanOrEqual(20_000);
});

it('nothing happens after the end, and what breaks the same thing takes turns', () => {
  const { faults, business } = planRun(options('--seconds', '120'));
  for (const { atMs } of business.actions) expect(atMs).toBeLessThan(120 * SECOND);
  for (const { id, atMs, forMs, breaks } of faults) {
    expect(atMs + forMs).toBeLessThan(120 * SECOND);
    const meanwhile = faults.filter((other) => other.id > id && other.breaks === breaks && other.atMs < atMs + forMs);
    expect(meanwhile).toEqual([]);
  }
});

it('only the faults that are named are planned, by a part of a name that no other has, too', () => {
  const kinds = planRun(options('--faults', 'rolling,link cut')).faults.map(({ kind }) => kind);
  expect(new Set(kinds)).toEqual(new Set(['rolling restart (SIGTERM)', 'link cut']));
  expect(planRun(options('--faults', 'none')).faults).toEqual([]);
});

it.each([
  ['--faults', 'earthquake', 'no fault is named "earthquake"'],
  ['--faults', 'Redis', 'several faults are named "Redis"'],
])('%s %s is refused with the names there are', (name, value, message) => {
  expect(() => planRun(options(name, value))).toThrow(message);
  expect(() => planRun(options(name, value))).toThrow('FLUSHALL');
});

it.each([
  ['--minutes', '0'],
  ['--seed', '1.5'],
  ['--rate', 'fast'],
  ['--colour', 'red'],
])('%s %s is refused', (...argv) => {
  expect(() => options(...argv)).toThrow(argv[0].slice(2));
});

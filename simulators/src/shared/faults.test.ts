import { z } from 'zod';
import { FaultScript, faultTiming, sharedFaults } from './faults.ts';

const schema = z.discriminatedUnion(
  'kind',
  sharedFaults({ ...faultTiming, on: z.enum(['read', 'write']).optional() }, { code: z.string().optional() }),
);

let now: number;
let script: FaultScript<z.output<typeof schema>, z.input<typeof schema>>;
beforeEach(() => {
  now = 0;
  script = new FaultScript(schema, () => now);
});

const take = () => script.take(() => true)?.kind;

test('a fault hits once, or as often as it says', () => {
  script.add({ kind: 'html' });
  script.add({ kind: 'drop-before', count: 2 });
  expect([take(), take(), take(), take()]).toEqual(['html', 'drop-before', 'drop-before', undefined]);
});

test('a fault with a time hits every request until then, and none after', () => {
  script.add({ kind: 'status', status: 429, untilMs: 60_000 });
  now = 59_999;
  expect([take(), take(), take()]).toEqual(['status', 'status', 'status']);
  expect(script.all()).toMatchObject([{ untilMs: 1 }]);
  now = 60_000;
  expect(take()).toBeUndefined();
  expect(script.all()).toEqual([]);
});

test('the oldest that fits is used up first, whatever waits before it', () => {
  script.add({ kind: 'html', on: 'write' });
  script.add({ kind: 'delay', delayMs: 1, on: 'read' });
  script.add({ kind: 'drop-after', on: 'read' });
  const read = () => script.take(({ on }) => on === 'read')?.kind;
  expect([read(), read(), read()]).toEqual(['delay', 'drop-after', undefined]);
  expect(script.all()).toMatchObject([{ kind: 'html', count: 1 }]);
});

test('a fault that makes no sense is refused with the field named, and not scripted', () => {
  expect(() => script.add({ kind: 'delay', delayMs: 0 })).toThrow('delayMs');
  expect(() => script.add({ kind: 'status', status: 99 })).toThrow('status');
  expect(() => script.add({ kind: 'html', count: 1_000_001 })).toThrow('count');
  expect(script.all()).toEqual([]);
});

test('cleared faults hit nothing', () => {
  script.add({ kind: 'html', count: 1_000_000 });
  script.clear();
  expect(take()).toBeUndefined();
});

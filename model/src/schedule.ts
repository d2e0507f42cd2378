import { carryOutRemovals, followEpoch, publish, scan } from './bridge.ts';
import type { Deed } from './business.ts';
import { Machine } from './machine.ts';
import type { Key } from './postgres.ts';
import type { Variant } from './variants.ts';

interface Step {
  /** How often it is drawn, among all. */
  readonly weight: number;
  readonly perform: (machine: Machine) => void;
}

/**
 * Everything that can happen, by the name it has in a printed schedule. A schedule is a list of these names; a shorter list
 * is a schedule as well, so fast-check shrinks it by leaving steps out. The weights favour work over faults: a machine
 * that only crashes shows nothing.
 */
const STEPS: Record<string, Step> = {
  ...ofEach((who) => ({
    [`user ${who + 1} goes on`]: { weight: 5, perform: (machine) => repeat(5, () => machine.goOnTransacting(who)) },
    [`user ${who + 1} goes on one step`]: { weight: 3, perform: (machine) => machine.goOnTransacting(who) },
    [`user ${who + 1} rolls back`]: { weight: 1, perform: (machine) => machine.rollBack(who) },
    ...deed(who, 'change', 'a', 5),
    ...deed(who, 'change', 'b', 5),
    ...deed(who, 'pause', 'a', 2),
    ...deed(who, 'pause', 'b', 2),
    ...deed(who, 'resume', 'a', 2),
    ...deed(who, 'resume', 'b', 2),
    ...deed(who, 'plan a pause check', 'a', 1),
  })),
  ...ofEach((who) => ({
    [`bridge ${who + 1} publishes`]: { weight: 6, perform: (machine) => machine.bridge(who, publish) },
    [`bridge ${who + 1} publishes, 4 steps`]: {
      weight: 8,
      perform: (machine) => repeat(4, () => machine.bridge(who, publish)),
    },
    [`bridge ${who + 1} removes`]: { weight: 1, perform: (machine) => machine.bridge(who, carryOutRemovals) },
    [`bridge ${who + 1} follows the epoch`]: { weight: 3, perform: (machine) => machine.bridge(who, followEpoch) },
    [`bridge ${who + 1} scans`]: { weight: 2, perform: (machine) => machine.bridge(who, scan) },
    [`bridge ${who + 1} crashes`]: { weight: 1, perform: (machine) => machine.crashBridge(who) },
  })),
  ...ofEach((who) => ({
    [`worker ${who + 1} works, 1 step`]: { weight: 8, perform: (machine) => machine.work(who) },
    [`worker ${who + 1} works, 4 steps`]: { weight: 10, perform: (machine) => repeat(4, () => machine.work(who)) },
    [`worker ${who + 1} works, 10 steps`]: { weight: 4, perform: (machine) => repeat(10, () => machine.work(who)) },
    [`worker ${who + 1} renews its leases`]: { weight: 2, perform: (machine) => machine.renewLease(who) },
    [`worker ${who + 1} renews its locks`]: { weight: 2, perform: (machine) => machine.renewLock(who) },
    [`worker ${who + 1} looks for cancels`]: { weight: 1, perform: (machine) => machine.lookForCancel(who) },
    [`worker ${who + 1} crashes`]: { weight: 2, perform: (machine) => machine.crashWorker(who) },
  })),
  'Redis loses everything': { weight: 2, perform: ({ world }) => world.queue.loseEverything() },
  'a replica of Redis falls behind': { weight: 1, perform: ({ world }) => world.queue.takeSnapshot() },
  'Redis fails over to it': { weight: 1, perform: ({ world }) => world.queue.failOver() },
  'BullMQ redelivers what stalled': {
    weight: 6,
    perform: ({ world }) => world.queue.redeliverStalled(world.now),
  },
  'other hands fail a job': { weight: 1, perform: ({ world }) => world.queue.failByOtherHands() },
  'the provider answers': { weight: 3, perform: ({ world }) => (world.provider.mood = 'answers') },
  'the provider holds requests': { weight: 3, perform: ({ world }) => (world.provider.mood = 'slow') },
  'the provider refuses': { weight: 1, perform: ({ world }) => (world.provider.mood = 'refuses') },
  'the provider cannot tell': { weight: 1, perform: ({ world }) => (world.provider.mood = 'mute') },
  'a held request arrives': { weight: 3, perform: ({ world }) => world.provider.letOneThrough() },
  '1 s passes': { weight: 3, perform: (machine) => machine.pass(1) },
  '5 s pass': { weight: 2, perform: (machine) => machine.pass(5) },
  '16 s pass': { weight: 6, perform: (machine) => machine.pass(16) },
  '61 s pass': { weight: 3, perform: (machine) => machine.pass(61) },
};

/** Each name as often as its weight. */
export const NAMES: string[] = Object.entries(STEPS).flatMap(([name, { weight }]) =>
  Array.from({ length: weight }, () => name),
);

/** Plays a schedule, then lets everything come to rest. The promise that was broken, or undefined. */
export function play(schedule: readonly string[], variant?: Variant): string | undefined {
  const machine = new Machine(variant);
  for (const name of schedule) {
    perform(machine, name);
    if (machine.world.watch.violation !== undefined) return machine.world.watch.violation;
  }
  machine.comeToRest();
  return machine.world.watch.violation;
}

/** The same for people: each step, and the places its process came by. */
export function tell(schedule: readonly string[], variant?: Variant): string {
  const machine = new Machine(variant);
  const lines = schedule.map((name, index) => {
    const before = machine.trace.length;
    perform(machine, name);
    const places = machine.trace.slice(before);
    const number = String(index + 1).padStart(4);
    return `${number}  ${name}${places.length > 0 ? `  →  ${places.join(', ')}` : ''}`;
  });
  const broken = machine.world.watch.violation;
  if (broken === undefined) machine.comeToRest();
  const when = broken === undefined ? 'when everything is run to the end' : 'here';
  return [...lines, `      ${when}: ${machine.world.watch.violation ?? 'all promises are kept'}`].join('\n');
}

function perform(machine: Machine, name: string): void {
  const step = STEPS[name];
  if (!step) throw new Error(`There is no step "${name}".`);
  if (machine.world.watch.violation === undefined) step.perform(machine);
  machine.world.watch.look(machine.world);
}

function deed(who: number, deed: Deed, key: Key, weight: number): Record<string, Step> {
  return {
    [`user ${who + 1}: ${deed} of ${key}`]: { weight, perform: (machine) => machine.transact(who, deed, key) },
  };
}

function ofEach(steps: (who: number) => Record<string, Step>): Record<string, Step> {
  return { ...steps(0), ...steps(1) };
}

function repeat(times: number, act: () => void): void {
  for (let time = 0; time < times; time += 1) act();
}

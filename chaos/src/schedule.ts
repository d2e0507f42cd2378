import { ConfigError, SECOND } from '@outbox/core';
import { planBusiness, type BusinessPlan } from './business/plan.ts';
import { FAULT_KINDS, type PlannedFault } from './faults/index.ts';
import type { Options } from './options.ts';
import { Random } from './random.ts';

/** All that a run will do, and when. Nothing in it comes from anywhere but the options. */
export interface Schedule {
  business: BusinessPlan;
  faults: PlannedFault[];
}

/** Faults come in this rhythm on average: often enough to overlap, seldom enough that work gets done. */
const FAULTS_PER_SECOND = 0.45;

/** The first fault waits until there is something to lose; the last is over in time for its recovery to be seen. */
const FIRST_FAULT_MS = 3 * SECOND;
const LAST_FAULT_MS = 2 * SECOND;

/** Throws `ConfigError` when a fault is asked for that there is not. */
export function planRun({ seed, durationMs, rate, faults }: Options): Schedule {
  // Two generators: with other faults, the same business.
  return {
    business: planBusiness(new Random(seed), { durationMs, rate }),
    faults: planFaults(new Random(seed ^ 0x5f3759df), durationMs, faults),
  };
}

function planFaults(random: Random, durationMs: number, names: string[] | undefined): PlannedFault[] {
  const kinds = names === undefined ? FAULT_KINDS : names.map(findKind);
  const faults: PlannedFault[] = [];
  if (kinds.length === 0) return faults;
  const end = durationMs - LAST_FAULT_MS;
  for (let atMs = FIRST_FAULT_MS; atMs < end; atMs += random.gapMs(FAULTS_PER_SECOND)) {
    const kind = random.pickWeighted(kinds);
    const fault = { id: faults.length + 1, kind: kind.name, atMs: Math.round(atMs), ...kind.plan(random, faults) };
    const isFree = !faults.some((other) => other.breaks === fault.breaks && other.atMs + other.forMs + SECOND > atMs);
    if (isFree && atMs + fault.forMs < end) faults.push(fault);
  }
  return faults;
}

/** By its name, or by a part of it that no other has. */
function findKind(name: string) {
  const found = FAULT_KINDS.filter((kind) => kind.name === name);
  const similar = found.length > 0 ? found : FAULT_KINDS.filter((kind) => kind.name.includes(name));
  const [kind, ...others] = similar;
  if (kind && others.length === 0) return kind;
  const names = FAULT_KINDS.map((each) => `  ${each.name}`).join('\n');
  throw new ConfigError(
    `--faults: ${kind ? 'several faults are' : 'no fault is'} named "${name}". There are:\n${names}`,
  );
}

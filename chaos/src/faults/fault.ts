import type { Random } from '../random.ts';
import type { Stage } from '../stage.ts';

/** What one occurrence of a fault is to do. The same seed gives the same. */
export interface FaultPlan {
  /** From its beginning to its end, as planned; 0 for what happens at once. Milliseconds. */
  forMs: number;
  /** What it breaks: two that break the same thing are not under way at the same time. */
  breaks: string;
  /** The rest: which service, how much, which step. */
  how: Record<string, string | number | boolean>;
}

export interface PlannedFault extends FaultPlan {
  id: number;
  kind: string;
  /** Since the beginning of the run. */
  atMs: number;
}

export interface FaultKind {
  /** As in the report. */
  name: string;
  /** How often, compared with the others. */
  weight: number;
  /** `earlier` is what was planned before it. */
  plan(random: Random, earlier: PlannedFault[]): FaultPlan;
  /** Breaks something and, when its time is over, mends it. What it returns is noted. */
  inflict(fault: PlannedFault, stage: Stage): Promise<string | void>;
}

export function text(fault: PlannedFault, name: string): string {
  const value = fault.how[name];
  if (typeof value !== 'string') throw new Error(`${fault.kind} has no ${name}`);
  return value;
}

export function number(fault: PlannedFault, name: string): number {
  const value = fault.how[name];
  if (typeof value !== 'number') throw new Error(`${fault.kind} has no ${name}`);
  return value;
}

import { channel } from 'node:diagnostics_channel';

/**
 * The steps of the machinery, named: what a crash right here leaves behind is what the comments beside them tell, and
 * what the fault tests prove by killing the process at each. Publishing to a channel nobody listens to costs nothing.
 */
export const STEPS = [
  'publish.picked',
  'publish.added',
  'publish.marked',
  'publish.committed',
  'removals.taken',
  'removals.done',
  'epoch.written',
  'claim.committed',
  'effect.started',
  'effect.called',
  'effect.settled',
  'complete.written',
  'finish.committed',
] as const;

export type Step = (typeof STEPS)[number];

const steps = channel('outbox.step');

/** Says that a step was reached, to whoever listens to the channel `outbox.step`. */
export function reached(step: Step): void {
  if (steps.hasSubscribers) steps.publish(step);
}

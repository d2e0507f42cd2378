import { SECOND } from '@outbox/core';
import type { FaultInput } from '@outbox/simulators';
import { number, type FaultKind } from './fault.ts';

/** More requests than come in the time of a fault. */
const ALL = 100_000;

interface ProviderFault {
  name: string;
  /** `value` is the fault's own number, from `values`. */
  fault: (value: number) => FaultInput;
  values: [min: number, max: number];
}

const TROUBLES: ProviderFault[] = [
  {
    name: 'provider answers 429',
    fault: (retryAfter) => ({ kind: 'status', status: 429, retryAfter, count: ALL }),
    values: [1, 4],
  },
  { name: 'provider answers 5xx', fault: (status) => ({ kind: 'status', status, count: ALL }), values: [500, 503] },
  { name: 'provider slow', fault: (delayMs) => ({ kind: 'delay', delayMs, count: ALL }), values: [300, 6_000] },
  { name: 'provider hangs up, not having sent', fault: () => ({ kind: 'drop-before', count: ALL }), values: [0, 0] },
  { name: 'provider hangs up, having sent', fault: () => ({ kind: 'drop-after', count: ALL }), values: [0, 0] },
  {
    name: 'provider refuses recipients',
    fault: (count) => ({ kind: 'status', status: 400, code: 21610, count }),
    values: [1, 20],
  },
  {
    name: 'provider cannot look up',
    fault: (status) => ({ kind: 'status', on: 'look-up', status, count: ALL }),
    values: [500, 503],
  },
];

export const providerFaults: FaultKind[] = TROUBLES.map(({ name, fault, values: [min, max] }) => ({
  name,
  weight: 1.5,
  plan: (random) => ({
    forMs: random.int(1, 6) * SECOND,
    breaks: 'the provider',
    how: { value: random.int(min, max) },
  }),
  inflict: async (planned, stage) => {
    stage.sms.fault(fault(number(planned, 'value')));
    await stage.hold(planned.forMs);
    stage.sms.clearFaults();
  },
}));

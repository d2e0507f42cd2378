import type { FaultKind } from './fault.ts';
import { handFaults } from './hands.ts';
import { linkFaults } from './links.ts';
import { postgresFaults } from './postgres.ts';
import { processFaults } from './processes.ts';
import { providerFaults } from './provider.ts';
import { redisFaults } from './redis.ts';

export type { FaultKind, PlannedFault } from './fault.ts';

export const FAULT_KINDS: FaultKind[] = [
  ...processFaults,
  ...linkFaults,
  ...postgresFaults,
  ...redisFaults,
  ...handFaults,
  ...providerFaults,
];

import type { BenchCase } from '../bench-case.ts';
import { recovery } from './recovery.ts';
import { soak } from './soak.ts';
import { tenants } from './tenants.ts';
import { throughput } from './throughput.ts';

/** Every benchmark. A new one is a file here and a line in this list. */
export const cases: readonly BenchCase[] = [throughput, recovery, soak, tenants];

import type { BenchCase } from '../bench-case.ts';
import { burst } from './burst.ts';
import { lateness } from './lateness.ts';
import { latency } from './latency.ts';
import { memory } from './memory.ts';
import { processor } from './processor.ts';
import { recovery } from './recovery.ts';
import { scaleOut } from './scale-out.ts';
import { scale } from './scale.ts';
import { soak } from './soak.ts';
import { tenants } from './tenants.ts';
import { throughput } from './throughput.ts';
import { writers } from './writers.ts';

/** Every benchmark. A new one is a file here and a line in this list. */
export const cases: readonly BenchCase[] = [
  throughput,
  latency,
  lateness,
  burst,
  writers,
  scale,
  memory,
  processor,
  scaleOut,
  recovery,
  soak,
  tenants,
];

import type { Role } from './supervisor.ts';

/** The services of a run, by name. */
export const CAST = [
  { name: 'bridge-1', role: 'bridge' },
  { name: 'bridge-2', role: 'bridge' },
  { name: 'worker-1', role: 'worker' },
  { name: 'worker-2', role: 'worker' },
  { name: 'worker-3', role: 'worker' },
  { name: 'api-1', role: 'api' },
] as const satisfies { name: string; role: Role }[];

export type ServiceName = (typeof CAST)[number]['name'];

export const BRIDGES: ServiceName[] = ['bridge-1', 'bridge-2'];
export const WORKERS: ServiceName[] = ['worker-1', 'worker-2', 'worker-3'];

/** The queues of the reminders family. */
export const QUEUES = ['reminders', 'pause-checks'] as const;

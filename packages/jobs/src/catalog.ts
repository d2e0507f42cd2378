import type { JobDefinition } from '@outbox/core';
import { pauseCheck } from './pause-checks/job.ts';
import { sendReminder } from './reminders/job.ts';

/** Every job of this installation. A new one is a folder, a line here and a line in handlers.ts. */
export const catalog = [sendReminder, pauseCheck] as const satisfies readonly JobDefinition[];

export type JobName = (typeof catalog)[number]['name'];

/** The definition called `name`, or undefined. */
export function findDefinition(name: string): JobDefinition | undefined {
  return catalog.find((definition) => definition.name === name);
}

/** The queues of the catalogue, each once. */
export function queueNames(): string[] {
  return [...new Set(catalog.map(({ queue }) => queue))];
}

export { families, type Family } from './families.ts';
export { pauseCheck } from './pause-checks/job.ts';
export { sendReminder } from './reminders/job.ts';

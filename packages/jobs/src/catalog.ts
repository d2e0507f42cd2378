import type { JobDefinition } from '@outbox/core';
import { families, type FamilyName } from './families.ts';
import { gmbSync } from './gmb-sync/job.ts';
import { pauseCheck } from './pause-checks/job.ts';
import { sendReminder } from './reminders/job.ts';

/** Every job of this installation. A new one is a folder, a line here and a line in handlers.ts. */
export const catalog = [sendReminder, pauseCheck, gmbSync] as const satisfies readonly JobDefinition[];

const allFamilies = families.map(({ name }) => name);

export type JobName = (typeof catalog)[number]['name'];

/** The definition called `name`, or undefined. */
export function findDefinition(name: string): JobDefinition | undefined {
  return catalog.find((definition) => definition.name === name);
}

/** The definitions of these families; of all without an argument. */
export function definitionsOf(names: readonly FamilyName[] = allFamilies): readonly JobDefinition[] {
  return catalog.filter(({ family }) => names.some((name) => name === family));
}

/** The queues of these families, each once. */
export function queueNames(names: readonly FamilyName[] = allFamilies): string[] {
  return [...new Set(definitionsOf(names).map(({ queue }) => queue))];
}

export { families, type Family, type FamilyName } from './families.ts';
export { familiesSetting } from './families-setting.ts';
export { gmbSync } from './gmb-sync/job.ts';
export { pauseCheck } from './pause-checks/job.ts';
export { sendReminder } from './reminders/job.ts';

import { findEndings } from './endings.ts';
import type { Finding, World } from './finding.ts';
import { findLost } from './lost.ts';
import { findQueues } from './queues.ts';
import { findRequests } from './requests.ts';
import { findRuns } from './runs.ts';
import { findTexts } from './texts.ts';
import { findWrites } from './writes.ts';

export type { Finding, World } from './finding.ts';
export { slowestWrite } from './writes.ts';

const CHECKS = [findLost, findTexts, findRuns, findEndings, findRequests, findWrites, findQueues];

/** Asks every question of the world that a run has left behind. */
export async function checkInvariants(world: World): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const check of CHECKS) findings.push(...(await check(world)));
  return findings;
}

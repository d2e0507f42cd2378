import { SECOND } from '@outbox/core';
import type { Write } from '../business/writes.ts';
import { wasUp } from '../servers.ts';
import { mustBeNone, type Finding, type World } from './finding.ts';

/** Longer than that a business transaction must not take because of us. */
const SLOW_MS = 2 * SECOND;

/** Invariant 8: a business transaction never waits for us, and never fails because of us. */
export function findWrites({ business, stage }: World): Promise<Finding[]> {
  const { outages } = stage.postgres;
  const whileUp = business.writes.all.filter(({ startedAt, endedAt }) => wasUp(outages, startedAt, endedAt));
  const failed = whileUp.filter(({ outcome }) => outcome === 'failed' || outcome === 'unknown');
  return Promise.resolve([
    mustBeNone('business writes failed while Postgres was up', failed.map(describe)),
    mustBeNone(
      `business writes slower than ${SLOW_MS / SECOND} s while Postgres was up`,
      whileUp.filter(({ durationMs }) => durationMs > SLOW_MS).map(describe),
    ),
  ]);
}

/** The slowest while Postgres was up; undefined when there was none. */
export function slowestWrite({ business, stage }: World): Write | undefined {
  let slowest: Write | undefined;
  for (const write of business.writes.all) {
    if (write.durationMs <= (slowest?.durationMs ?? 0)) continue;
    if (wasUp(stage.postgres.outages, write.startedAt, write.endedAt)) slowest = write;
  }
  return slowest;
}

function describe({ what, startedAt, durationMs, outcome, error }: Write): string {
  const at = new Date(startedAt).toISOString();
  return `${at} ${what} ${outcome} after ${Math.round(durationMs)} ms${error ? `: ${error}` : ''}`;
}

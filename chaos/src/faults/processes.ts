import { MINUTE, SECOND, STEPS, type Step } from '@outbox/core';
import { BRIDGES, CAST, WORKERS } from '../cast.ts';

import type { Stage } from '../stage.ts';
import { number, text, type FaultKind, type PlannedFault } from './fault.ts';

const killService: FaultKind = {
  name: 'kill -9 of a service',
  weight: 8,
  plan: (random) => {
    const { name } = random.pick(CAST);
    return { forMs: 0, breaks: name, how: { service: name } };
  },
  inflict: (fault, stage) => Promise.resolve(stage.service(text(fault, 'service')).supervisor.kill()),
};

/** So long a service may take to come to its step. */
const REACH_WITHIN_MS = 8 * SECOND;

/**
 * Steps take turns, so that a run of some minutes has each. A bridge writes an epoch only when the queue's data is gone,
 * so that step goes with a FLUSHALL.
 */
const killAtStep: FaultKind = {
  name: 'kill -9 at a step',
  weight: 18,
  plan: (random, earlier) => {
    const step = random.pick(findSeldomest(earlier));
    const service = random.pick(isBridges(step) ? BRIDGES : WORKERS);
    return { forMs: REACH_WITHIN_MS, breaks: service, how: { step, service } };
  },
  inflict: async (fault, stage) => {
    const step = text(fault, 'step');
    if (step === 'epoch.written') return killAtEpoch(stage);
    const hit = await stage.service(text(fault, 'service')).supervisor.killAt(step, REACH_WITHIN_MS, stage.over);
    if (hit) stage.stepsHit.add(step);
    return hit ? undefined : 'not reached';
  },
};

/** The steps that were planned less often than others. */
function findSeldomest(earlier: PlannedFault[]): Step[] {
  const times = (step: Step) => earlier.filter(({ how }) => how.step === step).length;
  const least = Math.min(...STEPS.map(times));
  return STEPS.filter((step) => times(step) === least);
}

function isBridges(step: Step): boolean {
  return /^(publish|removals|epoch)\./.test(step);
}

async function killAtEpoch(stage: Stage): Promise<string | void> {
  const kills = BRIDGES.map((name) =>
    stage.service(name).supervisor.killAt('epoch.written', REACH_WITHIN_MS, stage.over),
  );
  await stage.redisClient.flushall().catch(() => undefined);
  const hits = await Promise.all(kills);
  if (!hits.includes(true)) return 'not reached';
  stage.stepsHit.add('epoch.written');
}

const rollingRestart: FaultKind = {
  name: 'rolling restart (SIGTERM)',
  weight: 2,
  plan: () => ({ forMs: 15 * SECOND, breaks: 'all services', how: {} }),
  inflict: async (_fault, stage) => {
    for (const { name } of CAST) {
      if (stage.over.aborted) return;
      await stage.service(name).supervisor.restart();
    }
  },
};

const MOST_SKEW_MS = 10 * MINUTE;

const clockSkew: FaultKind = {
  name: 'clock of a service wrong',
  weight: 4,
  plan: (random) => {
    const { name } = random.pick(CAST);
    const skewMs = random.pick([-1, 1]) * random.int(2 * SECOND, MOST_SKEW_MS);
    return { forMs: random.int(5, 20) * SECOND, breaks: `clock of ${name}`, how: { service: name, skewMs } };
  },
  inflict: async (fault, stage) => {
    const { supervisor } = stage.service(text(fault, 'service'));
    supervisor.skew(number(fault, 'skewMs'));
    await stage.hold(fault.forMs);
    supervisor.skew(0);
  },
};

export const processFaults: FaultKind[] = [killService, killAtStep, rollingRestart, clockSkew];

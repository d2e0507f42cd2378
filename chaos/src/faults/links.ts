import { SECOND } from '@outbox/core';
import type { FaultProxy } from '@outbox/testing';
import { CAST } from '../cast.ts';
import type { Random } from '../random.ts';
import type { Stage } from '../stage.ts';
import { number, text, type FaultKind, type FaultPlan, type PlannedFault } from './fault.ts';

const SERVERS = ['redis', 'postgres'] as const;
const EVERY_SERVICE = 'all services';

/** One service's link to a server, or every service's. */
function planLink(random: Random, forMs: number, how: FaultPlan['how'] = {}): FaultPlan {
  const server = random.pick(SERVERS);
  const service = random.chance(0.25) ? EVERY_SERVICE : random.pick(CAST).name;
  return { forMs, breaks: `${service} to ${server}`, how: { service, server, ...how } };
}

function linksOf(fault: PlannedFault, stage: Stage): FaultProxy[] {
  const [name, server] = [text(fault, 'service'), text(fault, 'server')];
  const services = name === EVERY_SERVICE ? stage.services : [stage.service(name)];
  return services.map(({ links }) => (server === 'redis' ? links.redis : links.postgres));
}

async function whileBroken(fault: PlannedFault, stage: Stage, breakIt: (link: FaultProxy) => unknown): Promise<void> {
  const links = linksOf(fault, stage);
  await Promise.all(links.map(breakIt));
  await stage.hold(fault.forMs);
  await Promise.all(links.map((link) => link.restore()));
}

const cut: FaultKind = {
  name: 'link cut',
  weight: 6,
  plan: (random) => planLink(random, random.int(300, 6_000)),
  inflict: (fault, stage) => whileBroken(fault, stage, (link) => link.cut()),
};

const interrupt: FaultKind = {
  name: 'link interrupted',
  weight: 4,
  plan: (random) => planLink(random, 0),
  inflict: (fault, stage) => Promise.resolve(linksOf(fault, stage).forEach((link) => link.interrupt())),
};

const halfOpen: FaultKind = {
  name: 'link half-open',
  weight: 7,
  plan: (random) => planLink(random, random.int(3, 12) * SECOND),
  inflict: (fault, stage) => whileBroken(fault, stage, (link) => link.silence()),
};

const slow: FaultKind = {
  name: 'link slow',
  weight: 5,
  plan: (random) => planLink(random, random.int(3, 10) * SECOND, { delayMs: random.int(20, 400) }),
  inflict: (fault, stage) => whileBroken(fault, stage, (link) => link.delay(number(fault, 'delayMs'))),
};

const PAUSED_MEANWHILE = 40;

/** A business write that pauses an auto sync must not notice that Redis hangs. */
const halfOpenWhilePausing: FaultKind = {
  name: 'Redis half-open while auto syncs are paused',
  weight: 2,
  plan: (random) => ({
    forMs: random.int(6, 10) * SECOND,
    breaks: `${EVERY_SERVICE} to redis`,
    how: { service: EVERY_SERVICE, server: 'redis' },
  }),
  inflict: async (fault, stage) => {
    const links = linksOf(fault, stage);
    for (const link of links) link.silence();
    await stage.hold(fault.forMs / 2);
    await stage.business.pauseNewest(PAUSED_MEANWHILE);
    await stage.hold(fault.forMs / 2);
    await Promise.all(links.map((link) => link.restore()));
  },
};

/** How Postgres says that a transaction has committed. */
const COMMITTED = 'COMMIT\0';

const lostCommit: FaultKind = {
  name: 'answer to a commit lost',
  weight: 4,
  plan: (random) => {
    const service = random.pick(CAST).name;
    return { forMs: 0, breaks: `commit of ${service}`, how: { service } };
  },
  inflict: (fault, stage) =>
    Promise.resolve(stage.service(text(fault, 'service')).links.postgres.loseNextAnswer(COMMITTED)),
};

export const linkFaults: FaultKind[] = [cut, interrupt, halfOpen, slow, halfOpenWhilePausing, lostCommit];

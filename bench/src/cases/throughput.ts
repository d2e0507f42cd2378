import { envBoolean, envInteger } from '@outbox/core';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { bullmqAlone, bullmqOnPostgres } from '../contestants/bullmq.ts';
import type { Contestant } from '../contestants/contestant.ts';
import { graphileWorkerDefault, graphileWorkerLocalQueue } from '../contestants/graphile-worker.ts';
import { handWritten } from '../contestants/hand-written.ts';
import { outboxBridge } from '../contestants/outbox-bridge.ts';
import { pgBoss } from '../contestants/pg-boss.ts';
import { median, spread } from '../statistics.ts';
import { withStage } from '../stage.ts';
import { measureThroughput } from '../throughput.ts';

const settings = z.object({
  jobs: envInteger(100, 1_000_000).default(20_000).describe('Jobs of one round'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
  only: z.string().optional().describe('Contestants whose name has this in it; the product always takes part'),
});

const peers = [bullmqAlone, bullmqOnPostgres, graphileWorkerDefault, graphileWorkerLocalQueue, pgBoss, handWritten];

/** Least that our speed may be, as a part of theirs. */
const GOALS = new Map<Contestant, number>([
  [bullmqAlone, 0.8],
  [graphileWorkerLocalQueue, 1.5],
  [handWritten, 5],
]);

export const throughput = defineCase({
  name: 'throughput',
  description: 'Jobs that do nothing, from the first insert to the last recorded end, beside other job systems',
  settings,
  run: ({ jobs, rounds, fsync, only }, say) =>
    withStage({ fsync }, async (stage) => {
      const contestants = [outboxBridge, ...peers.filter(({ name }) => only === undefined || name.includes(only))];
      const speeds = new Map<Contestant, number[]>(contestants.map((contestant) => [contestant, []]));
      for (let round = 1; round <= rounds; round += 1) {
        for (const contestant of contestants) {
          const perSecond = await measureThroughput(stage, contestant, jobs);
          speeds.get(contestant)?.push(perSecond);
          say(`  round ${round}: ${Math.round(perSecond).toString().padStart(6)} jobs/s  ${contestant.name}`);
        }
      }
      const ours = speeds.get(outboxBridge) ?? [];
      const ratios = (contestant: Contestant) => ours.map((speed, at) => speed / (speeds.get(contestant)?.[at] ?? 0));
      return {
        goals: contestants.flatMap((contestant) => {
          const least = GOALS.get(contestant);
          if (least === undefined) return [];
          const reached = median(ratios(contestant));
          return {
            text: `${reached.toFixed(2)} × ${contestant.name} (median; at least ${least})`,
            met: reached >= least,
          };
        }),
        tables: [
          {
            title: 'Jobs a second (min / median / max), and our speed as a part of theirs, round by round:',
            columns: ['', 'Jobs/s', 'Ours / theirs', 'Settings'],
            rows: contestants.map((contestant) => [
              contestant.name,
              spread(speeds.get(contestant) ?? [], 0),
              contestant === outboxBridge ? '' : spread(ratios(contestant)),
              contestant.settings,
            ]),
          },
        ],
        charts: [
          {
            name: 'jobs',
            title: `From the first insert to the last recorded end of ${jobs} jobs`,
            unit: 'Jobs a second',
            bars: contestants.map((contestant) => ({
              label: contestant.name,
              figure: median(speeds.get(contestant) ?? []),
            })),
          },
        ],
        notes: [
          'Each round starts the processes of one contestant, warms them up, and stops them. Jobs are written 1,000 in a ' +
            'transaction, by a trigger on a row of the business; BullMQ alone gets them by addBulk. The clock runs from ' +
            'before the first insert until the last job is recorded as done.',
        ],
        servers: stage.servers,
      };
    }),
});

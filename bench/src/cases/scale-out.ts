import { envBoolean, envInteger } from '@outbox/core';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { createOutboxBridge } from '../contestants/outbox-bridge.ts';
import { withStage } from '../stage.ts';
import { spread } from '../statistics.ts';
import { measureThroughput } from '../throughput.ts';

const settings = z.object({
  jobs: envInteger(100, 1_000_000).default(20_000).describe('Jobs of one round'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

const CREWS = [
  { bridges: 1, workers: 1 },
  { bridges: 2, workers: 1 },
  { bridges: 1, workers: 2 },
  { bridges: 2, workers: 2 },
  { bridges: 4, workers: 4 },
].map((crew) => ({ ...crew, contestant: createOutboxBridge(crew) }));

export const scaleOut = defineCase({
  name: 'scale-out',
  description: 'Throughput of one, two and four bridges and workers on the same servers',
  settings,
  run: ({ jobs, rounds, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const speeds = CREWS.map((): number[] => []);
      for (let round = 1; round <= rounds; round += 1) {
        for (const [at, { contestant }] of CREWS.entries()) {
          const perSecond = await measureThroughput(stage, contestant, jobs);
          speeds[at]?.push(perSecond);
          say(`  round ${round}: ${Math.round(perSecond)} jobs/s  ${contestant.settings}`);
        }
      }
      const alone = speeds[0] ?? [];
      return {
        goals: [],
        tables: [
          {
            title: 'Jobs a second (min / median / max), and as a part of one bridge and one worker, round by round:',
            columns: ['Bridges', 'Workers', 'Jobs/s', 'Of one and one'],
            rows: CREWS.map(({ bridges, workers }, at) => {
              const ratios = (speeds[at] ?? []).map((speed, round) => speed / (alone[round] ?? 0));
              return [bridges, workers, spread(speeds[at] ?? [], 0), spread(ratios)];
            }),
          },
        ],
        notes: [
          'Everything shares the cores of one machine, PostgreSQL and Redis too: more processes can only win what one leaves ' +
            'idle. What this tells is what it costs to run several, for availability, and that none stands in the way of another.',
        ],
        servers: stage.servers,
      };
    }),
});

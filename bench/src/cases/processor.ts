import { envBoolean, envInteger } from '@outbox/core';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { bullmqAlone } from '../contestants/bullmq.ts';
import type { Contestant } from '../contestants/contestant.ts';
import { outboxBridge } from '../contestants/outbox-bridge.ts';
import { namesOfProcesses, readProcessorTimes, taken } from '../processor-time.ts';
import { withStage, type Stage } from '../stage.ts';
import { spread } from '../statistics.ts';

const settings = z.object({
  jobs: envInteger(5_000, 1_000_000).default(30_000).describe('Jobs of one round'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

const WARM_UP_JOBS = 5_000;

/** Microseconds per job, by what took them. */
type Round = Map<string, number>;

export const processor = defineCase({
  name: 'processor',
  description: 'Where the time goes at full load: processor time per job of each process, beside BullMQ alone',
  settings,
  run: ({ jobs, rounds, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const contestants: Contestant[] = [outboxBridge, bullmqAlone];
      const measured = new Map<Contestant, Round[]>(contestants.map((contestant) => [contestant, []]));
      for (let round = 1; round <= rounds; round += 1) {
        for (const contestant of contestants) {
          const result = await measureRound(stage, contestant, jobs);
          measured.get(contestant)?.push(result);
          say(`  round ${round}: ${Math.round(sumOf(result))} µs a job  ${contestant.name}`);
        }
      }
      const kinds = new Set([...measured.values()].flat().flatMap((round) => [...round.keys()]));
      const row = (label: string, of: (round: Round) => number) => [
        label,
        ...contestants.map((contestant) => spread((measured.get(contestant) ?? []).map(of), 0)),
      ];
      return {
        goals: [],
        tables: [
          {
            title: `Microseconds of a core per job, ${jobs} jobs (min / median / max of the rounds):`,
            columns: ['', ...contestants.map(({ name }) => name)],
            rows: [...[...kinds].sort().map((kind) => row(kind, (round) => round.get(kind) ?? 0)), row('All', sumOf)],
          },
        ],
        notes: [
          'User and system time as Linux counts it, from the first insert to the last recorded end. Processes that share two ' +
            'cores take more of it for the same work than one that has a core and its caches for itself.',
        ],
        servers: stage.servers,
      };
    }),
});

function sumOf(round: Round): number {
  return [...round.values()].reduce((sum, us) => sum + us, 0);
}

async function measureRound(stage: Stage, contestant: Contestant, jobs: number): Promise<Round> {
  const running = await contestant.start(stage);
  try {
    await running.add(WARM_UP_JOBS);
    await running.drained();
    const before = await readProcessorTimes();
    await running.add(jobs);
    await running.drained();
    const after = await readProcessorTimes();
    const names = await namesOfProcesses(stage, running.processes ?? new Map());
    return new Map([...taken(before, after, names)].map(([name, us]) => [name, us / jobs]));
  } finally {
    await running.stop();
  }
}

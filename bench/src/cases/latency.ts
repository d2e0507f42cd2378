import { envBoolean, envInteger } from '@outbox/core';
import { z } from 'zod';
import { defineCase, type Goal } from '../bench-case.ts';
import { bullmqAlone } from '../contestants/bullmq.ts';
import type { Contestant } from '../contestants/contestant.ts';
import { graphileWorkerDefault, graphileWorkerLocalQueue } from '../contestants/graphile-worker.ts';
import { handWritten } from '../contestants/hand-written.ts';
import { outboxBridge } from '../contestants/outbox-bridge.ts';
import { pgBoss } from '../contestants/pg-boss.ts';

import { measureLatency } from '../latency.ts';
import { withStage } from '../stage.ts';
import { median, percentile, spread } from '../statistics.ts';

const settings = z.object({
  seconds: envInteger(2, 600).default(10).describe('How long each is loaded, at each rate'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
  only: z.string().optional().describe('Contestants whose name has this in it; the product always takes part'),
});

/** Commits a second. */
const RATES = [50, 500];

const peers = [bullmqAlone, graphileWorkerDefault, graphileWorkerLocalQueue, pgBoss, handWritten];

/** The quickest of the job systems that need nothing but PostgreSQL. */
const yardsticks = [graphileWorkerDefault, graphileWorkerLocalQueue];

/** Most that our latency at the lowest rate may be, as a multiple of theirs. */
const GOALS: readonly { percent: number; most: number }[] = [
  { percent: 50, most: 1 },
  { percent: 99, most: 2 },
];

/** Latencies of one contestant at one rate: one list per round, ms. */
type Rounds = number[][];

export const latency = defineCase({
  name: 'latency',
  description: 'From a commit of one row to the start of its handler, at a steady rate, beside other job systems',
  settings,
  run: ({ seconds, rounds, fsync, only }, say) =>
    withStage({ fsync }, async (stage) => {
      const contestants = [outboxBridge, ...peers.filter(({ name }) => only === undefined || name.includes(only))];
      const measured = RATES.map((rate) => ({
        rate,
        of: new Map<Contestant, Rounds>(contestants.map((contestant) => [contestant, []])),
      }));
      for (let round = 1; round <= rounds; round += 1) {
        for (const contestant of contestants) {
          for (const { rate, of } of measured) {
            const latencies = await measureLatency(stage, contestant, rate, seconds);
            of.get(contestant)?.push(latencies);
            say(`  round ${round}, ${rate}/s: ${inWords(latencies)}  ${contestant.name}`);
          }
        }
      }
      return {
        goals: goalsOf(measured[0]?.of ?? new Map<Contestant, Rounds>()),
        tables: measured.map(({ rate, of }) => ({
          title: `At ${rate} commits a second, milliseconds (min / median / max of the rounds):`,
          columns: ['', 'p50', 'p95', 'p99', 'Longest', 'Settings'],
          rows: contestants.map((contestant) => {
            const figures = [50, 95, 99, 100].map((percent) =>
              spread(
                (of.get(contestant) ?? []).map((latencies) => percentile(latencies, percent)),
                1,
              ),
            );
            return [contestant.name, ...figures, contestant.settings];
          }),
        })),
        charts: measured.map(({ rate, of }) => ({
          name: `${rate}-per-second`,
          title: `From commit to the start of the handler at ${rate} commits a second`,
          unit: 'Milliseconds, p50',
          logarithmic: true,
          bars: contestants.map((contestant) => ({
            label: contestant.name,
            figure: median((of.get(contestant) ?? []).map(median)),
          })),
        })),
        notes: [
          'Each row is inserted by a statement of its own, which is its transaction. The clock runs from when its commit is ' +
            'known to the client until the handler is called, by the monotonic clock of the machine; for BullMQ alone, from ' +
            'when add is answered.',
        ],
        servers: stage.servers,
      };
    }),
});

function inWords(latencies: readonly number[]): string {
  return [50, 99]
    .map((percent) => `p${percent} ${percentile(latencies, percent).toFixed(1).padStart(6)} ms`)
    .join(', ');
}

function goalsOf(of: Map<Contestant, Rounds>): Goal[] {
  const theirs = yardsticks.map((contestant) => of.get(contestant)).filter((rounds) => rounds !== undefined);
  if (theirs.length === 0) return [];
  return GOALS.map(({ percent, most }) => {
    const ratios = (of.get(outboxBridge) ?? []).map((latencies, round) => {
      const best = Math.min(...theirs.map((rounds) => percentile(rounds[round] ?? [], percent)));
      return percentile(latencies, percent) / best;
    });
    const reached = median(ratios);
    return {
      text: `at ${RATES[0]}/s p${percent} is ${reached.toFixed(2)} × graphile-worker's best (median; at most ${most})`,
      met: reached <= most,
    };
  });
}

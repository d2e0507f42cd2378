import { envBoolean, envInteger, SECOND } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase, type Goal } from '../bench-case.ts';
import type { Contestant } from '../contestants/contestant.ts';
import { createOutboxBridge } from '../contestants/outbox-bridge.ts';
import { allPublished, enqueueChecks, headStartMs } from '../load.ts';
import { withStage, type Stage } from '../stage.ts';
import { newStartsFile, readStarts } from '../starts.ts';
import { median, spread } from '../statistics.ts';
import { measureThroughput } from '../throughput.ts';

const settings = z.object({
  jobs: envInteger(1_000, 1_000_000).default(100_000).describe('Jobs that are due at the same instant'),
  rounds: envInteger(1, 20).default(2).describe('Rounds, each beside one of steady throughput'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

/** Jobs of a round of steady throughput. */
const STEADY_JOBS = 20_000;
const WARM_UP_JOBS = 2_000;

const LEAST_OF_STEADY = 0.8;
const MOST_MS_TO_FIRST_START = 100;

/** As shipped, and as in the case throughput. */
const CONCURRENCIES = [20, 200];

interface Round {
  steady: number;
  perSecond: number;
  firstStartMs: number;
}

export const burst = defineCase({
  name: 'burst',
  description: 'Delayed jobs that are all due at one instant: how fast they are worked off, and when the first starts',
  settings,
  run: ({ jobs, rounds, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const measured = CONCURRENCIES.map((concurrency) => ({ concurrency, results: [] as Round[] }));
      for (let round = 1; round <= rounds; round += 1) {
        for (const { concurrency, results } of measured) {
          const contestant = createOutboxBridge({ concurrency });
          const steady = await measureThroughput(stage, contestant, STEADY_JOBS);
          const result = { steady, ...(await measureBurst(stage, contestant, jobs)) };
          results.push(result);
          say(
            `  round ${round}, CONCURRENCY=${concurrency}: ${Math.round(result.perSecond)} jobs/s ` +
              `(steady ${Math.round(steady)}), first start after ${result.firstStartMs} ms`,
          );
        }
      }
      return {
        goals: measured.flatMap(({ concurrency, results }) => goalsOf(concurrency, results, jobs)),
        tables: [
          {
            title: 'Jobs a second (min / median / max of the rounds):',
            columns: ['CONCURRENCY', 'Steady', 'Burst', 'Burst / steady', 'First start, ms'],
            rows: measured.map(({ concurrency, results }) => [
              concurrency,
              spread(
                results.map(({ steady }) => steady),
                0,
              ),
              spread(
                results.map(({ perSecond }) => perSecond),
                0,
              ),
              spread(results.map(({ perSecond, steady }) => perSecond / steady)),
              spread(
                results.map((result) => result.firstStartMs),
                0,
              ),
            ]),
          },
        ],
        notes: [
          `One bridge, one worker. Steady is the case throughput: ${STEADY_JOBS} jobs from the first insert on, while they are ` +
            'being written and published. A burst was in BullMQ before; its clock runs from the instant its jobs are due ' +
            'until the last of them is recorded as done.',
          'BullMQ fetches a job for every free place of a worker before it starts the first of them, and each fetch moves up ' +
            'to 1,000 jobs that have become due. So a worker that was idle has one place, and twice as many with each job it starts.',
        ],
        servers: stage.servers,
      };
    }),
});

function goalsOf(concurrency: number, results: readonly Round[], jobs: number): Goal[] {
  const ratio = median(results.map(({ perSecond, steady }) => perSecond / steady));
  const firstStartMs = median(results.map((result) => result.firstStartMs));
  return [
    {
      text: `CONCURRENCY=${concurrency}: ${jobs} jobs due at once are worked off at ${ratio.toFixed(2)} of steady throughput (median; at least ${LEAST_OF_STEADY})`,
      met: ratio >= LEAST_OF_STEADY,
    },
    {
      text: `CONCURRENCY=${concurrency}: the first starts after ${firstStartMs} ms (median; at most ${MOST_MS_TO_FIRST_START} ms)`,
      met: firstStartMs <= MOST_MS_TO_FIRST_START,
    },
  ];
}

async function measureBurst(stage: Stage, contestant: Contestant, jobs: number): Promise<Omit<Round, 'steady'>> {
  const startsFile = newStartsFile(stage.folder);
  const running = await contestant.start(stage, { startsFile });
  try {
    await running.add(WARM_UP_JOBS);
    await running.drained();
    const dueMs = Math.ceil(Date.now() + headStartMs(jobs));
    await enqueueChecks(stage.pool, pauseCheck.name, jobs, `to_timestamp(${dueMs / SECOND})`);
    await allPublished(stage.pool, dueMs);
    await running.drained();
    const { rows } = await stage.pool.query<{ endedMs: number }>(/* sql */ `
      select extract(epoch from max(j.finished_at))::float8 * 1000 as "endedMs" from outbox.jobs j`);
    const seconds = ((rows[0]?.endedMs ?? Number.NaN) - dueMs) / SECOND;
    const starts = [...(await readStarts(startsFile)).values()].map(({ wallMs }) => wallMs - dueMs);
    return { perSecond: jobs / seconds, firstStartMs: starts.filter((ms) => ms >= 0).reduce((a, b) => Math.min(a, b)) };
  } finally {
    await running.stop();
  }
}

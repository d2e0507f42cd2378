import { setTimeout as wait } from 'node:timers/promises';
import { envBoolean, envInteger, SECOND, type Pool } from '@outbox/core';
import { bubbleUserSync } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { outboxBridge } from '../contestants/outbox-bridge.ts';
import { measureLatency } from '../latency.ts';
import { enqueueChecks } from '../load.ts';
import { inMib, usedMemoryOf } from '../memory.ts';
import { withStage, type Stage } from '../stage.ts';
import { median, percentile, spread } from '../statistics.ts';
import { measureThroughput } from '../throughput.ts';

const settings = z.object({
  far: envInteger(0, 10_000_000).default(1_000_000).describe('Rows that are due far beyond the publish window'),
  finished: envInteger(0, 50_000_000)
    .default(5_000_000)
    .describe('Rows that have ended and are kept, each with its attempt'),
  jobs: envInteger(100, 1_000_000).default(20_000).describe('Jobs of one round of throughput'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

/** Commits a second while latency is measured, and for how long. */
const RATE = 50;
const LATENCY_S = 10;

/** Most that a full table may take away. */
const MOST_LOST = 0.1;

/** Redis' own housekeeping moves it by less. */
const MOST_REDIS_GROWTH = 2 ** 20;

/** Time in which a bridge would have published what it should not. */
const LOOKING_MS = 10 * SECOND;

const CHUNK = 100_000;

interface Round {
  throughput: { empty: number; full: number };
  p50: { empty: number; full: number };
  p99: { empty: number; full: number };
}

export const scale = defineCase({
  name: 'scale',
  description: 'The same work beside millions of rows that wait or are kept as history, and in an empty database',
  settings,
  run: ({ far, finished, jobs, rounds, fsync }, say) =>
    withStage({ fsync }, (full) =>
      withStage({ fsync }, async (empty) => {
        const grownBytes = await addFar(full, far);
        say(`  ${far} far-future rows: Redis grew by ${inMib(grownBytes, 1)} MiB`);
        await addFinished(full.pool, finished, say);
        await full.pool.query('vacuum analyze');
        await full.pool.query('checkpoint');

        const results: Round[] = [];
        for (let round = 1; round <= rounds; round += 1) {
          const result = await measureBoth({ empty, full }, jobs);
          results.push(result);
          say(
            `  round ${round}: full / empty ${ratioOf(result.throughput).toFixed(2)} of ${Math.round(result.throughput.empty)} jobs/s, ` +
              `p50 ${ratioOf(result.p50).toFixed(2)} of ${result.p50.empty.toFixed(1)} ms`,
          );
        }
        const speed = median(results.map(({ throughput }) => ratioOf(throughput)));
        const delay = median(results.map(({ p50 }) => ratioOf(p50)));
        return {
          goals: [
            {
              text: `throughput is ${speed.toFixed(2)} of an empty table's (median; at least ${1 - MOST_LOST})`,
              met: speed >= 1 - MOST_LOST,
            },
            {
              text: `commit to start, p50, is ${delay.toFixed(2)} of an empty table's (median; at most ${1 + MOST_LOST})`,
              met: delay <= 1 + MOST_LOST,
            },
            {
              text: `Redis grows by ${inMib(grownBytes, 1)} MiB for ${far} far-future rows (at most ${inMib(MOST_REDIS_GROWTH)} MiB)`,
              met: grownBytes <= MOST_REDIS_GROWTH,
            },
          ],
          tables: [
            {
              title: 'Min / median / max of the rounds:',
              columns: ['', 'Empty', 'Full', 'Full / empty'],
              rows: [
                row(
                  'Jobs/s',
                  results.map(({ throughput }) => throughput),
                  0,
                ),
                row(
                  `Commit to start at ${RATE}/s, p50, ms`,
                  results.map(({ p50 }) => p50),
                  1,
                ),
                row(
                  `Commit to start at ${RATE}/s, p99, ms`,
                  results.map(({ p99 }) => p99),
                  1,
                ),
              ],
            },
          ],
          notes: [
            `Two databases on two servers of one machine, measured in turns. Full: ${far} rows due in a year, ${finished} that ended ` +
              'within the last hours with a row of outbox.attempts each; vacuumed and analysed.',
          ],
          servers: full.servers,
        };
      }),
    ),
});

/**
 * Enqueues them while a bridge is looking; returns by how many bytes Redis grew. They are of a family that takes no part: the
 * sweep of one that does would find that nobody needs them.
 */
async function addFar(stage: Stage, count: number): Promise<number> {
  const bridge = await stage.start('bridge', { FAMILIES: 'reminders' });
  const before = await usedMemoryOf(stage.redis);
  await enqueueChecks(stage.pool, bubbleUserSync.name, count, `now() + interval '365 days'`);
  await wait(LOOKING_MS);
  const after = await usedMemoryOf(stage.redis);
  await bridge.kill();
  return after - before;
}

/** As they would be after a day of work: written directly, since running five million jobs takes half an hour. */
async function addFinished(pool: Pool, count: number, say: (line: string) => void): Promise<void> {
  for (let added = 0; added < count; added += CHUNK) {
    await pool.query(
      /* sql */ `
      with ended as (
        insert into outbox.jobs (
          name, queue, payload, scheduled_at, due_at, state, run, attempt, max_attempts, created_at, published_at,
          published_epoch, started_at, finished_at
        )
        select
          t.name, t.queue, jsonb_build_object('autoSyncId', gen_random_uuid()), at, at, 'completed', outbox.new_run(), 1,
          t.max_attempts, at, at, q.epoch, at, at
        from generate_series($2::int, $3::int) as s (n)
        cross join lateral (select now() - interval '2 hours' + n * interval '1 ms' as at) a
        join outbox.job_types t on t.name = $1
        join outbox.queues q on q.name = t.queue
        returning id, run, started_at, finished_at
      )
      insert into outbox.attempts (job_id, run, attempt, worker, started_at, finished_at, outcome)
      select id, run, 1, 'bench', started_at, finished_at, 'completed' from ended`,
      [bubbleUserSync.name, added + 1, Math.min(added + CHUNK, count)],
    );
    if ((added / CHUNK) % 10 === 9) say(`  ${added + CHUNK} finished rows`);
  }
}

async function measureBoth({ empty, full }: { empty: Stage; full: Stage }, jobs: number): Promise<Round> {
  const speeds = {
    empty: await measureThroughput(empty, outboxBridge, jobs),
    full: await measureThroughput(full, outboxBridge, jobs),
  };
  const latencies = {
    empty: await measureLatency(empty, outboxBridge, RATE, LATENCY_S),
    full: await measureLatency(full, outboxBridge, RATE, LATENCY_S),
  };
  const percentiles = (percent: number) => ({
    empty: percentile(latencies.empty, percent),
    full: percentile(latencies.full, percent),
  });
  return { throughput: speeds, p50: percentiles(50), p99: percentiles(99) };
}

function ratioOf({ empty, full }: { empty: number; full: number }): number {
  return full / empty;
}

function row(what: string, figures: { empty: number; full: number }[], digits: number): string[] {
  return [
    what,
    spread(
      figures.map(({ empty }) => empty),
      digits,
    ),
    spread(
      figures.map(({ full }) => full),
      digits,
    ),
    spread(figures.map(ratioOf)),
  ];
}

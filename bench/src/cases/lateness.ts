import { envBoolean, envInteger, SECOND } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { waitFor } from '@outbox/testing';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { outboxBridge } from '../contestants/outbox-bridge.ts';
import { allPublished, enqueueChecks, headStartMs } from '../load.ts';
import { withStage, type Stage } from '../stage.ts';
import { newStartsFile, readStarts } from '../starts.ts';
import { percentile } from '../statistics.ts';

const settings = z.object({
  rate: envInteger(1, 10_000).default(1_000).describe('Jobs that become due in each second'),
  seconds: envInteger(5, 3_600).default(60).describe('How long they do'),
  goal: envInteger(1, 60_000).default(50).describe('Most that p99 may be, ms'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

const WARM_UP_JOBS = 2_000;

export const lateness = defineCase({
  name: 'lateness',
  description: 'Delayed jobs that become due one after the other: how late their handlers start',
  settings,
  run: ({ rate, seconds, goal, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const startsFile = newStartsFile(stage.folder);
      const running = await outboxBridge.start(stage, { startsFile });
      await running.add(WARM_UP_JOBS);
      await running.drained();

      const count = rate * seconds;
      const firstDueMs = Date.now() + headStartMs(count);
      const dueAt = `to_timestamp(${firstDueMs / SECOND} + n / ${rate}::float8)`;
      await enqueueChecks(stage.pool, pauseCheck.name, count, dueAt);
      await allPublished(stage.pool, firstDueMs);
      say(`${count} jobs are in BullMQ, the first due in ${((firstDueMs - Date.now()) / SECOND).toFixed(1)} s`);
      await running.drained();
      const late = await latenessOf(stage, startsFile);
      await running.stop();

      const p99 = percentile(late, 99);
      return {
        goals: [
          { text: `p99 is ${p99.toFixed(1)} ms at ${rate} due a second (at most ${goal} ms)`, met: p99 <= goal },
          { text: `no job started before its time`, met: Math.min(...late) >= 0 },
        ],
        tables: [
          {
            title: 'Milliseconds from when a job was due to when its handler was called:',
            columns: ['Jobs', 'Earliest', 'p50', 'p95', 'p99', 'p99.9', 'Latest'],
            rows: [[late.length, ...[0, 50, 95, 99, 99.9, 100].map((percent) => percentile(late, percent).toFixed(1))]],
          },
        ],
        notes: [
          `${outboxBridge.settings}. All jobs were in BullMQ before the first was due. Both instants are by the clock of the ` +
            'machine, the start to the millisecond.',
        ],
        servers: stage.servers,
      };
    }),
});

async function latenessOf({ pool }: Stage, startsFile: string): Promise<number[]> {
  const { rows } = await pool.query<{ id: string; dueMs: number }>(/* sql */ `
    select j.key as id, extract(epoch from j.due_at)::float8 * 1000 as "dueMs" from outbox.jobs j where j.key is not null`);
  return waitFor(async () => {
    const starts = await readStarts(startsFile);
    return rows.map(({ id, dueMs }) => {
      const start = starts.get(id);
      if (!start) throw new Error(`No handler has said that it started ${id}.`);
      return start.wallMs - dueMs;
    });
  });
}

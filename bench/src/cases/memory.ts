import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { envBoolean, envInteger, MINUTE } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { createOutboxBridge, type RunningOutboxBridge } from '../contestants/outbox-bridge.ts';
import { allPublished, enqueueChecks } from '../load.ts';
import { inMib, usedMemoryOf } from '../memory.ts';
import { withStage, type Stage } from '../stage.ts';

const settings = z.object({
  jobs: envInteger(1_000, 1_000_000).default(100_000).describe('Jobs that are run, and as many that wait then'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

export const memory = defineCase({
  name: 'memory',
  description: 'What each process, Redis and the tables hold: idle, after many jobs were run, with many more waiting',
  settings,
  run: ({ jobs, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const running = await createOutboxBridge().start(stage);
      const look = async (when: string): Promise<Look> => {
        const held = await lookAt(stage, running);
        say(
          `  ${when}: ${Object.entries(held)
            .map(([what, bytes]) => `${what} ${inMib(bytes)}`)
            .join(', ')} MiB`,
        );
        return held;
      };
      const idle = await look('idle');
      await running.add(jobs);
      await running.drained();
      const after = await look(`${jobs} jobs were run`);
      await enqueueChecks(stage.pool, pauseCheck.name, jobs, `now() + interval '24 hours'`);
      await allPublished(stage.pool, Date.now() + 5 * MINUTE);
      const waiting = await look(`${jobs} more wait in BullMQ`);
      await running.stop();
      const perJob = ((waiting.Redis ?? 0) - (after.Redis ?? 0)) / jobs;
      return {
        goals: [],
        tables: [
          {
            title: 'MiB:',
            columns: ['', 'Idle', `${jobs} jobs were run`, `${jobs} more wait`],
            rows: Object.keys(idle).map((what) => [
              what,
              ...[idle, after, waiting].map((held) => inMib(held[what] ?? 0)),
            ]),
          },
        ],
        notes: [
          `A job that waits in BullMQ takes ${Math.round(perJob)} bytes of Redis. Of the processes it is the resident set; of ` +
            'Redis, used_memory; of the tables, all of the schema outbox with its indexes.',
        ],
        servers: stage.servers,
      };
    }),
});

/** Bytes by what holds them. */
type Look = Record<string, number>;

async function lookAt({ pool, redis }: Stage, { bridges, workers }: RunningOutboxBridge): Promise<Look> {
  const look: Look = {};
  for (const { pid } of bridges) look.Bridge = await residentSet(pid);
  for (const { pid } of workers) look.Worker = await residentSet(pid);
  look.Redis = await usedMemoryOf(redis);
  const { rows } = await pool.query<{ bytes: number }>(/* sql */ `
    select sum(pg_total_relation_size(c.oid))::float8 as bytes
    from pg_class c
    where c.relnamespace = 'outbox'::regnamespace and c.relkind = 'r'`);
  look['PostgreSQL tables'] = rows[0]?.bytes ?? Number.NaN;
  return look;
}

async function residentSet(pid: number): Promise<number> {
  const { stdout } = await promisify(execFile)('ps', ['-o', 'rss=', '-p', String(pid)]);
  return Number(stdout) * 1024;
}

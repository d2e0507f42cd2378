import { pauseCheck } from '@outbox/jobs';
import { inChunks, insertOne, noteStarts, type Contestant, type Running, type StartOptions } from './contestant.ts';
import type { RunningService } from '@outbox/testing';
import type { Stage } from '../stage.ts';
import { until } from './peer.ts';

const CONCURRENCY = 200;

/** A row of the business, and the rule that makes each a job. */
const WORK = /* sql */ `
  create table if not exists public.work (id uuid primary key default gen_random_uuid());
  select outbox.capture(
    name => 'bench.work',
    table_name => 'public.work',
    job_name => '${pauseCheck.name}',
    payload => $$jsonb_build_object('autoSyncId', row.id)$$,
    delay => $$interval '0'$$,
    events => '{insert}'
  )`;

/** Rows that are due in the far future stay as they are. */
const IS_OPEN = /* sql */ `
  select exists (
    select from outbox.jobs j where j.finished_at is null and j.scheduled_at < now() + interval '1 hour'
  ) as open`;

export interface OutboxBridgeOptions {
  bridges?: number;
  workers?: number;
  /** Jobs that a worker runs at the same time. */
  concurrency?: number;
}

export interface RunningOutboxBridge extends Running {
  bridges: RunningService[];
  workers: RunningService[];
}

export interface OutboxBridge extends Contestant {
  start(stage: Stage, options?: StartOptions): Promise<RunningOutboxBridge>;
}

/** The product: the services as they are built. A module loaded before the worker empties one of its handlers. */
export function createOutboxBridge({
  bridges: bridgeCount = 1,
  workers: workerCount = 1,
  concurrency = CONCURRENCY,
}: OutboxBridgeOptions = {}): OutboxBridge {
  return {
    name: 'Outbox Bridge',
    settings: `${countOf(bridgeCount, 'bridge')}, ${countOf(workerCount, 'worker')}, CONCURRENCY=${concurrency}`,
    start: async (stage, options = {}) => {
      const { pool } = stage;
      await pool.query(WORK);
      const workerSettings = {
        FAMILIES: 'reminders',
        CONCURRENCY: String(concurrency),
        NODE_OPTIONS: `--import=${new URL('../no-op-handler.js', import.meta.url).href}`,
        ...noteStarts(options),
      };
      const startAll = (count: number, name: 'bridge' | 'worker', env: Record<string, string>) =>
        Promise.all(Array.from({ length: count }, () => stage.start(name, env)));
      const [bridges, workers] = await Promise.all([
        startAll(bridgeCount, 'bridge', { FAMILIES: 'reminders' }),
        startAll(workerCount, 'worker', workerSettings),
      ]);
      const named = (services: RunningService[], what: string) =>
        services.map(({ pid }): [number, string] => [pid, what]);
      return {
        bridges,
        workers,
        processes: new Map([...named(bridges, 'Bridge'), ...named(workers, 'Worker')]),
        add: (count) =>
          inChunks(count, (chunk) =>
            pool.query('insert into public.work select from generate_series(1, $1::int)', [chunk]),
          ),
        addOne: () => insertOne(pool, 'public.work'),
        drained: () =>
          until(async () => {
            const { rows } = await pool.query<{ open: boolean }>(IS_OPEN);
            return rows[0]?.open === false;
          }),
        stop: async () => {
          for (const service of [...bridges, ...workers]) await service.kill();
        },
      };
    },
  };
}

export const outboxBridge = createOutboxBridge();

function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

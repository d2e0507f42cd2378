import { pauseCheck } from '@outbox/jobs';
import { inChunks, type Contestant } from './contestant.ts';
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

const IS_OPEN = /* sql */ `select exists (select from outbox.jobs j where j.finished_at is null) as open`;

/** The product: one bridge and one worker, as they are built. A module loaded before the worker empties one of its handlers. */
export const outboxBridge: Contestant = {
  name: 'Outbox Bridge',
  settings: `one bridge, one worker, CONCURRENCY=${CONCURRENCY}`,
  start: async (stage) => {
    const { pool } = stage;
    await pool.query(WORK);
    const services = await Promise.all([
      stage.start('bridge', { FAMILIES: 'reminders' }),
      stage.start('worker', {
        FAMILIES: 'reminders',
        CONCURRENCY: String(CONCURRENCY),
        NODE_OPTIONS: `--import=${new URL('../no-op-handler.js', import.meta.url).href}`,
      }),
    ]);
    return {
      add: (count) =>
        inChunks(count, (chunk) =>
          pool.query('insert into public.work select from generate_series(1, $1::int)', [chunk]),
        ),
      drained: () =>
        until(async () => {
          const { rows } = await pool.query<{ open: boolean }>(IS_OPEN);
          return rows[0]?.open === false;
        }),
      stop: async () => {
        for (const service of services) await service.kill();
      },
    };
  },
};

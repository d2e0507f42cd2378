import { versionOf } from '../versions.ts';
import { inChunks, insertOne, noteStarts, type Contestant } from './contestant.ts';
import { startPeer, until } from './peer.ts';

/** As its documentation advises for triggers: a row trigger that calls add_job. */
const WORK = /* sql */ `
  create table if not exists public.graphile_work (id uuid primary key default gen_random_uuid());
  create or replace function public.add_graphile_job() returns trigger language plpgsql as $$
  begin
    perform graphile_worker.add_job('no-op', json_build_object('id', new.id));
    return new;
  end $$;
  create or replace trigger add_graphile_job after insert on public.graphile_work
    for each row execute function public.add_graphile_job()`;

function graphileWorker(name: string, settings: string, env: Record<string, string>): Contestant {
  return {
    name,
    settings: `${versionOf('graphile-worker')}, ${settings}`,
    start: async ({ pool, databaseUrl }, options = {}) => {
      const worker = await startPeer(
        'graphile-worker.mjs',
        { DATABASE_URL: databaseUrl, ...env, ...noteStarts(options) },
        { needsNewerNode: true },
      );
      await pool.query(WORK);
      return {
        add: (count) =>
          inChunks(count, (chunk) =>
            pool.query('insert into public.graphile_work select from generate_series(1, $1::int)', [chunk]),
          ),
        addOne: () => insertOne(pool, 'public.graphile_work'),
        drained: () =>
          until(async () => {
            const { rows } = await pool.query<{ open: boolean }>(
              'select exists (select from graphile_worker._private_jobs) as open',
            );
            return rows[0]?.open === false;
          }),
        stop: () => worker.stop(),
      };
    },
  };
}

/** What it does unless told otherwise, with as many jobs at a time as it has connections. */
export const graphileWorkerDefault = graphileWorker('graphile-worker', 'concurrentJobs 10', { CONCURRENCY: '10' });

/** Its fastest: a local queue, jobs completed in batches. */
export const graphileWorkerLocalQueue = graphileWorker(
  'graphile-worker, local queue',
  'concurrentJobs 24, localQueue 500, batched completion',
  { CONCURRENCY: '24', LOCAL_QUEUE: '500' },
);

import { versionOf } from '../versions.ts';
import { inChunks, insertOne, noteStarts, type Contestant } from './contestant.ts';
import { startPeer, until } from './peer.ts';

const BATCH_SIZE = 200;
const WORKERS = 4;

/** What its own insert does, in a trigger: a row of its table, whose defaults suffice, and a notification for all of them. */
const WORK = /* sql */ `
  create table if not exists public.boss_work (id uuid primary key default gen_random_uuid());
  create or replace function public.add_boss_jobs() returns trigger language plpgsql as $$
  begin
    insert into pgboss.job (name, data) select 'no-op', jsonb_build_object('id', i.id) from inserted i;
    perform pg_notify('pgboss_' || left(encode(sha224('pgboss'), 'hex'), 24), 'no-op');
    return null;
  end $$;
  create or replace trigger add_boss_jobs after insert on public.boss_work referencing new table as inserted
    for each statement execute function public.add_boss_jobs()`;

const IS_OPEN = /* sql */ `select exists (select from pgboss.job where name = 'no-op' and state < 'completed') as open`;

export const pgBoss: Contestant = {
  name: 'pg-boss, batches',
  settings: `${versionOf('pg-boss')}, a call of the handler for up to ${BATCH_SIZE} jobs, which end together; batchSize ${BATCH_SIZE}, localConcurrency ${WORKERS}, useListenNotify, burstWhenBatchFull, poll 0.5 s`,
  start: async ({ pool, databaseUrl }, options = {}) => {
    const worker = await startPeer(
      'pg-boss.mjs',
      {
        DATABASE_URL: databaseUrl,
        BATCH_SIZE: String(BATCH_SIZE),
        WORKERS: String(WORKERS),
        ...noteStarts(options),
      },
      { needsNewerNode: true },
    );
    await pool.query(WORK);
    let added = 0;
    return {
      add: (count) =>
        inChunks(count, async (chunk) => {
          await pool.query('insert into public.boss_work select from generate_series(1, $1::int)', [chunk]);
          added += chunk;
        }),
      addOne: async () => {
        const id = await insertOne(pool, 'public.boss_work');
        added += 1;
        return id;
      },
      drained: async () => {
        // The handlers have returned; their batches are recorded as completed a moment later.
        await until(() => worker.done >= added);
        await until(async () => {
          const { rows } = await pool.query<{ open: boolean }>(IS_OPEN);
          return rows[0]?.open === false;
        });
      },
      stop: () => worker.stop(),
    };
  },
};

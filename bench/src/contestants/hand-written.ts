import { inChunks, insertOne, noteStarts, type Contestant } from './contestant.ts';
import { startPeer, until } from './peer.ts';

const CONCURRENCY = 20;
const QUEUE = 'hand-written';

const WORK = /* sql */ `
  create schema if not exists hand_written;
  create table if not exists hand_written.outbox (
    id bigint generated always as identity primary key,
    payload jsonb not null,
    status text not null default 'pending',
    processed_at timestamptz
  );
  create index if not exists outbox_pending on hand_written.outbox (id) where status = 'pending';
  create table if not exists hand_written.work (id uuid primary key default gen_random_uuid());
  create or replace function hand_written.add_row() returns trigger language plpgsql as $$
  begin
    insert into hand_written.outbox (payload) values (jsonb_build_object('workId', new.id));
    return new;
  end $$;
  create or replace trigger add_row after insert on hand_written.work for each row execute function hand_written.add_row()`;

/** The bridge that everybody writes first. */
export const handWritten: Contestant = {
  name: 'hand-written bridge',
  settings: `row trigger, poll every second, one add and one update a row, worker with concurrency ${CONCURRENCY} and two updates`,
  start: async ({ pool, redis, databaseUrl }, options = {}) => {
    await pool.query(WORK);
    const env = {
      DATABASE_URL: databaseUrl,
      REDIS_PORT: String(redis.options.port),
      QUEUE,
      CONCURRENCY: String(CONCURRENCY),
      ...noteStarts(options),
    };
    const [worker, bridge] = [
      await startPeer('hand-written.mjs', { ...env, ROLE: 'worker' }),
      await startPeer('hand-written.mjs', { ...env, ROLE: 'bridge' }),
    ];
    let added = 0;
    return {
      add: (count) =>
        inChunks(count, async (chunk) => {
          await pool.query('insert into hand_written.work select from generate_series(1, $1::int)', [chunk]);
          added += chunk;
        }),
      addOne: async () => {
        const id = await insertOne(pool, 'hand_written.work');
        added += 1;
        return id;
      },
      drained: () => until(() => worker.done >= added),
      stop: async () => {
        await bridge.stop();
        await worker.stop();
      },
    };
  },
};

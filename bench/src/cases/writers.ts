import { setTimeout as wait } from 'node:timers/promises';
import { envBoolean, envInteger, SECOND, type Pool, type PoolClient } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { z } from 'zod';
import { defineCase } from '../bench-case.ts';
import { withStage, type Stage } from '../stage.ts';
import { median, spread } from '../statistics.ts';

const settings = z.object({
  writers: envInteger(1, 40).default(32).describe('Connections that insert at the same time'),
  seconds: envInteger(1, 600).default(8).describe('How long each table is written'),
  rounds: envInteger(1, 20).default(3).describe('Rounds of each, alternating'),
  fsync: envBoolean.default(true).describe('false: PostgreSQL does not wait for the disk'),
});

const WARM_UP_MS = 1 * SECOND;

/** A table of the business, as one would write it, and what happens when a row is inserted. */
interface Written {
  name: string;
  table: string;
  trigger: string;
}

const plain: Written = { name: 'no trigger', table: 'public.written_plain', trigger: '' };

const captured: Written = {
  name: 'Outbox Bridge',
  table: 'public.written_captured',
  trigger: /* sql */ `
    select outbox.capture(
      name => 'bench.written',
      table_name => 'public.written_captured',
      job_name => '${pauseCheck.name}',
      payload => $$jsonb_build_object('autoSyncId', row.id)$$,
      delay => $$interval '24 hours'$$,
      events => '{insert}'
    )`,
};

/** A row of an outbox and a notification, which is how most are written. */
const notifying: Written = {
  name: 'trigger that always notifies',
  table: 'public.written_notifying',
  trigger: /* sql */ `
    create table public.notified (
      id bigint generated always as identity primary key, payload jsonb not null, due_at timestamptz not null
    );
    create function public.notify() returns trigger language plpgsql as $$
    begin
      insert into public.notified (payload, due_at)
      values (jsonb_build_object('id', new.id), now() + interval '24 hours');
      perform pg_notify('notified', '');
      return null;
    end $$;
    create trigger notify after insert on public.written_notifying for each row execute function public.notify()`,
};

const all = [plain, captured, notifying];

/** Least that our speed may be, as a part of theirs. */
const GOALS = new Map<Written, number>([
  [notifying, 3],
  [plain, 0.6],
]);

export const writers = defineCase({
  name: 'writers',
  description: 'What the trigger costs the business: many connections insert single rows, each its own transaction',
  settings,
  run: ({ writers: count, seconds, rounds, fsync }, say) =>
    withStage({ fsync }, async (stage) => {
      const listener = await prepare(stage);
      const speeds = new Map<Written, number[]>(all.map((written) => [written, []]));
      for (let round = 1; round <= rounds; round += 1) {
        for (const written of all) {
          await insertFor(stage.pool, written, count, WARM_UP_MS);
          const inserts = await insertFor(stage.pool, written, count, seconds * SECOND);
          speeds.get(written)?.push(inserts / seconds);
          say(`  round ${round}: ${Math.round(inserts / seconds)} inserts/s  ${written.name}`);
        }
      }
      listener.release(true);
      const ours = speeds.get(captured) ?? [];
      const ratios = (written: Written) => ours.map((speed, at) => speed / (speeds.get(written)?.[at] ?? 0));
      return {
        goals: [...GOALS].map(([written, least]) => {
          const reached = median(ratios(written));
          return { text: `${reached.toFixed(2)} × ${written.name} (median; at least ${least})`, met: reached >= least };
        }),
        tables: [
          {
            title: 'Inserts a second (min / median / max), and ours as a part of theirs, round by round:',
            columns: ['', 'Inserts/s', 'Ours / theirs'],
            rows: all.map((written) => [
              written.name,
              spread(speeds.get(written) ?? [], 0),
              written === captured ? '' : spread(ratios(written)),
            ]),
          },
        ],
        charts: [
          {
            name: 'inserts',
            title: `Single-row inserts of ${count} connections at a time`,
            unit: 'Inserts a second',
            bars: all.map((written) => ({ label: written.name, figure: median(speeds.get(written) ?? []) })),
          },
        ],
        notes: [
          'A job is due 24 hours after its row was inserted. The bridge runs and publishes what is written all the while, on ' +
            'the same two cores; one session listens to what the notifying trigger tells.',
        ],
        servers: stage.servers,
      };
    }),
});

/** Makes the tables and starts the bridge; returns the connection that listens. */
async function prepare(stage: Stage): Promise<PoolClient> {
  const { pool } = stage;
  for (const { table, trigger } of all) {
    await pool.query(
      `create table ${table} (id uuid primary key default gen_random_uuid(), note text not null); ${trigger}`,
    );
  }
  const listener = await pool.connect();
  await listener.query('listen notified');
  await stage.start('bridge', { FAMILIES: 'reminders' });
  return listener;
}

/** Inserts of all connections in that time. */
async function insertFor(pool: Pool, { table }: Written, writers: number, ms: number): Promise<number> {
  const statement = {
    name: `insert into ${table}`,
    text: `insert into ${table} (note) values ($1)`,
    values: ['A note'],
  };
  const end = wait(ms);
  let ended = false;
  void end.then(() => (ended = true));
  let inserts = 0;
  const write = async () => {
    const client = await pool.connect();
    try {
      while (!ended) {
        await client.query(statement);
        inserts += 1;
      }
    } finally {
      client.release();
    }
  };
  await Promise.all(Array.from({ length: writers }, write));
  return inserts;
}

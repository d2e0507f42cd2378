import { setTimeout as wait } from 'node:timers/promises';
import { SECOND } from '@outbox/core';
import { SERVICE_LOGIN } from '../stage.ts';
import { number, text, type FaultKind } from './fault.ts';

const SERVER = 'the PostgreSQL server';

function restart(name: string, signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL', weight: number): FaultKind {
  return {
    name,
    weight,
    plan: (random) => ({ forMs: random.int(100, 4_000), breaks: SERVER, how: { signal } }),
    inflict: (fault, stage) => stage.postgres.restart(signal, fault.forMs),
  };
}

/** The server notices that one of its processes died, ends all others and recovers from its log. */
const backendKilled: FaultKind = {
  name: 'PostgreSQL backend killed (-9)',
  weight: 2,
  plan: (random) => ({ forMs: 0, breaks: SERVER, how: { nth: random.int(0, 1_000) } }),
  inflict: async (fault, stage) =>
    stage.postgres.during(async () => {
      const { rows } = await stage.admin.query<{ pid: number }>(SERVICE_SESSIONS);
      const pid = rows[number(fault, 'nth') % Math.max(rows.length, 1)]?.pid;
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
      await wait(200);
      await stage.untilPostgresAnswers();
    }),
};

const SERVICE_SESSIONS = /* sql */ `
  select pid from pg_stat_activity
  where application_name like 'outbox %' and backend_type = 'client backend'
  order by pid
  limit 1000`;

const sessionsEnded: FaultKind = {
  name: 'sessions terminated',
  weight: 5,
  plan: (random) => ({
    forMs: 0,
    breaks: 'sessions',
    how: { share: random.int(1, 10) / 10, seed: random.int(0, 1_000_000) },
  }),
  inflict: async (fault, stage) => {
    await stage.admin.query(TERMINATE_SOME, [number(fault, 'share'), number(fault, 'seed')]);
  },
};

/** Which sessions are hit depends on their ids and the seed alone. */
const TERMINATE_SOME = /* sql */ `
  select pg_terminate_backend(pid)
  from pg_stat_activity
  where application_name like 'outbox %' and backend_type = 'client backend'
    and abs(hashint8(pid + $2::bigint * 7919)) % 1000 < $1::float8 * 1000
  limit 1000`;

/** The services' login may have so few connections that most wait for one, and those they had are gone. */
const fewConnections: FaultKind = {
  name: 'connections used up',
  weight: 2,
  plan: (random) => ({ forMs: random.int(3, 8) * SECOND, breaks: 'connections', how: { left: random.int(0, 5) } }),
  inflict: async (fault, stage) => {
    await stage.admin.query(`alter role ${SERVICE_LOGIN} connection limit ${number(fault, 'left')}`);
    try {
      await stage.admin.query(TERMINATE_SOME, [1, 0]);
      await stage.hold(fault.forMs);
    } finally {
      await stage.untilPostgresAnswers();
      await stage.admin.query(`alter role ${SERVICE_LOGIN} connection limit -1`);
    }
  },
};

/** A person at a console, or an application that forgot to commit. */
const rowsHeld: FaultKind = {
  name: 'idle transaction holds job rows',
  weight: 4,
  plan: (random) => ({
    forMs: random.int(2, 7) * SECOND,
    breaks: `held rows ${random.int(0, 2)}`,
    how: { rows: random.int(1, 30), order: random.pick(['asc', 'desc']) },
  }),
  inflict: (fault, stage) =>
    stage.idleTransaction(async (client) => {
      const order = text(fault, 'order') === 'asc' ? 'asc' : 'desc';
      await client.query(
        `select id from outbox.jobs where finished_at is null order by scheduled_at ${order} limit $1 for update skip locked`,
        [number(fault, 'rows')],
      );
      await stage.hold(fault.forMs);
    }),
};

/** It locks the row it duplicates until it ends: no worker can claim that row meanwhile. */
const duplicateHeld: FaultKind = {
  name: 'idle transaction with a duplicate enqueue',
  weight: 3,
  plan: (random) => ({ forMs: random.int(2, 7) * SECOND, breaks: `duplicate ${random.int(0, 2)}`, how: {} }),
  inflict: (fault, stage) =>
    stage.idleTransaction(async (client) => {
      await client.query(ENQUEUE_AGAIN);
      await stage.hold(fault.forMs);
    }),
};

const ENQUEUE_AGAIN = /* sql */ `
  select e.id
  from (
    select key, payload, owner_id from outbox.jobs
    where finished_at is null and holds_key and name = 'reminder_24h' and idempotency_key is null
    order by scheduled_at
    limit 5
  ) j
  cross join lateral outbox.enqueue(
    name => 'reminder_24h', key => j.key, payload => j.payload, owner_id => j.owner_id
  ) e`;

export const postgresFaults: FaultKind[] = [
  restart('PostgreSQL restarted', 'SIGINT', 2),
  restart('PostgreSQL crashed (immediate)', 'SIGQUIT', 2),
  restart('PostgreSQL killed (-9)', 'SIGKILL', 2),
  backendKilled,
  sessionsEnded,
  fewConnections,
  rowsHeld,
  duplicateHeld,
];

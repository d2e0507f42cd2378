import {
  connectQueueBackend,
  enqueue,
  SECOND,
  type Pool,
  type Queryable,
  type QueueBackend,
  type SharedSettings,
} from '@outbox/core';
import { runMigrations, type Queue } from 'bullmq';
import pg from 'pg';
import { createQueues } from './queues.ts';

/** A job of the catalogue with no priorities; rows without a key are never duplicates. */
export const JOB = 'reminder_24h';
export const QUEUE = 'reminders';

export interface RowRequest {
  /** From now, by the database's clock. Negative: due already. */
  dueInMs?: number;
  priority?: number;
  payload?: Record<string, unknown>;
  serialKey?: string;
}

/** Adds one row the way everybody does, and returns its id. */
export async function addRow(pool: Queryable, { dueInMs = -1 * SECOND, payload = {}, ...rest }: RowRequest = {}) {
  const { rows } = await pool.query<{ at: Date }>(`select clock_timestamp() + $1 * interval '1 ms' as at`, [dueInMs]);
  const scheduledAt = rows[0]?.at;
  if (!scheduledAt) throw new Error('Postgres does not say what time it is');
  const { id } = await enqueue(pool, JOB, { payload, scheduledAt, ...rest });
  return id;
}

export async function addRows(pool: Pool, count: number): Promise<string[]> {
  const { rows } = await pool.query<{ id: string }>(
    `select id from outbox.enqueue_many(name => $1, rows => (
       select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n), 'scheduled_at', now()))
       from generate_series(1, $2) as n
     ))`,
    [JOB, count],
  );
  return rows.map(({ id }) => id);
}

export interface RowView {
  id: string;
  state: string;
  generation: number;
  /** Epoch milliseconds, by the database's clock. */
  scheduledMs: number;
  publishedEpoch: string | null;
  /** Generations that the bridge still has to look at. */
  ready: number[];
}

export async function readRows(pool: Pool): Promise<RowView[]> {
  const { rows } = await pool.query<RowView & Record<string, unknown>>(`
    select
      j.id, j.state, j.generation, extract(epoch from j.scheduled_at)::float8 * 1000 as "scheduledMs",
      j.published_epoch as "publishedEpoch",
      array(select r.generation from outbox.ready r where r.job_id = j.id order by 1) as ready
    from outbox.jobs j
    order by j.id`);
  return rows;
}

export async function readRow(pool: Pool, id: string): Promise<RowView> {
  const row = (await readRows(pool)).find((each) => each.id === id);
  if (!row) throw new Error(`There is no row ${id}`);
  return row;
}

/** How many rows are in each state. */
export async function countStates(pool: Pool): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ state: string; count: number }>(
    'select state, count(*)::int from outbox.jobs group by state',
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

export async function countReady(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ count: number }>('select count(*)::int from outbox.ready');
  return rows[0]?.count ?? 0;
}

export interface Queues {
  backend: QueueBackend;
  queue: Queue;
  queueOf: (name: string) => Queue;
  close(): Promise<void>;
}

/** Where BullMQ may keep its jobs: what the bridge promises holds on each. */
export type BackendKind = QueueBackend['kind'];
export const BACKENDS: readonly BackendKind[] = ['redis', 'postgres'];

/**
 * The queue backend as the bridge connects to it, and the queue of `JOB`. With `postgresUrl` BullMQ keeps its jobs there,
 * in a schema of its own, and Redis is not used.
 */
export async function openQueues(redisUrl: string, prefix: string, postgresUrl?: string): Promise<Queues> {
  if (postgresUrl !== undefined) await migrateBullMq(postgresUrl);
  const settings: SharedSettings = {
    DATABASE_URL: postgresUrl ?? 'postgres://not-used',
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: postgresUrl === undefined ? 'redis' : 'postgres',
    REDIS_URL: redisUrl,
    QUEUE_PREFIX: prefix,
    DATABASE_POOLED: false,
    LOG_LEVEL: 'error',
  };
  const backend = await connectQueueBackend(settings, () => undefined);
  const queues = createQueues(backend);
  const queue = queues.queueOf(QUEUE);
  await queue.waitUntilReady();
  const close = async () => {
    await queues.close();
    await backend.close();
  };
  return { backend, queue, queueOf: queues.queueOf, close };
}

async function migrateBullMq(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await runMigrations(client);
  await client.end();
}

type AddBulk = Queue['addBulk'];

/** Wraps the queue's addBulk; `add` is the real one. Returns how to have the real one back. */
export function interceptAdd(queue: Queue, intercept: (add: () => ReturnType<AddBulk>) => ReturnType<AddBulk>) {
  const addBulk = queue.addBulk.bind(queue);
  queue.addBulk = (jobs) => intercept(() => addBulk(jobs));
  return () => void (queue.addBulk = addBulk);
}

/** A promise that is kept when the test says so. */
export function createGate(): { opened: Promise<void>; open: () => void } {
  let open = () => undefined as void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

import { createPostgresBackend, Queue, Worker, type Processor, type WorkerOptions } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { SECOND } from './durations.ts';
import { UnavailableError } from './errors.ts';
import {
  delayedInPostgres,
  delayedInRedis,
  placesInPostgres,
  placesInRedis,
  waitingInPostgres,
  waitingInRedis,
  type JobPlace,
  type WaitingPage,
} from './job-places.ts';
import type { SharedSettings } from './config.ts';

/** What the processor of a worker is tuned with; the connection is the backend's business. */
export type WorkerTuning = Omit<WorkerOptions, 'connection' | 'prefix'>;

/**
 * Where BullMQ keeps its jobs. This module alone knows whether that is Redis or BullMQ's PostgreSQL backend; nothing
 * stored there is needed to know what has to be done.
 */
export interface QueueBackend {
  readonly kind: 'redis' | 'postgres';
  /** For adding and reading jobs. Calls fail fast when the backend is away: the rows stay in Postgres. */
  createQueue(name: string): Queue;
  /** For running jobs. Waits for the backend to come back. */
  createWorker(name: string, processor: Processor, tuning: WorkerTuning): Worker;
  /**
   * The epoch that `writeEpoch` left with a queue's data; undefined when there is none. A backend that lost its data has
   * lost the epoch with it.
   */
  readEpoch(queue: string): Promise<string | undefined>;
  writeEpoch(queue: string, epoch: string): Promise<void>;
  /** What the backend has of each of these BullMQ jobs, as of one instant each. */
  placesOf(queue: string, jobIds: string[]): Promise<Map<string, JobPlace>>;
  /** Of these jobs, those that the backend holds back, with the instant (epoch milliseconds) at which it hands them out. */
  delayedUntil(queue: string, jobIds: string[]): Promise<Map<string, number>>;
  /** Up to `limit` of the jobs that wait in a queue, from `cursor` on; the first page without one. */
  waitingJobs(queue: string, cursor: string | undefined, limit: number): Promise<WaitingPage>;
  /**
   * The highest number `writeCounter` was given, kept outside of any queue's data: undefined when there is none, and always
   * for a backend that lives in the database which it is to be compared with.
   */
  readCounter(): Promise<string | undefined>;
  /** Keeps the number unless it has seen a higher one. */
  writeCounter(counter: string): Promise<void>;
  /** Bytes in use and allowed; undefined when nothing is limited. */
  memory(): Promise<Memory | undefined>;
  /** Rejects when the backend does not answer. */
  ping(): Promise<void>;
  /** Closes every connection; queues and workers are closed by who made them, before. */
  close(): Promise<void>;
}

export interface Memory {
  usedBytes: number;
  maxBytes: number;
}

/** Connects, or throws `UnavailableError`. `onError` receives connection errors for the life of the backend. */
export async function connectQueueBackend(
  settings: SharedSettings,
  onError: (error: Error) => void,
): Promise<QueueBackend> {
  return settings.QUEUE_BACKEND === 'postgres'
    ? connectPostgresBackend(settings.DATABASE_URL, onError)
    : connectRedisBackend(settings.REDIS_URL as string, settings.QUEUE_PREFIX, onError);
}

/** A hung Redis must not hold the bridge's transaction: a command that takes longer has failed. */
const PRODUCER_COMMAND_TIMEOUT_MS = 1 * SECOND;

/**
 * A connection of a worker that waits for an answer so long is half-open: it is thrown away, and what was asked is asked
 * again on a new one. Longer than BullMQ lets Redis hold an answer back (10 s, and a second until it asks again).
 */
const CONSUMER_SILENCE_MS = 12 * SECOND;

async function connectRedisBackend(
  url: string,
  prefix: string,
  onError: (error: Error) => void,
): Promise<QueueBackend> {
  const producer = new Redis(url, {
    lazyConnect: true,
    enableOfflineQueue: false,
    commandTimeout: PRODUCER_COMMAND_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
  });
  await firstConnection(producer, url);
  producer.on('error', onError);

  const consumer = new Redis(url, { maxRetriesPerRequest: null, socketTimeout: CONSUMER_SILENCE_MS });
  consumer.on('error', onError);

  return {
    kind: 'redis',
    createQueue: (name) => {
      const queue = new Queue(name, { connection: producer, prefix: queuePrefix(prefix, name) });
      queue.on('error', onError);
      return queue;
    },
    createWorker: (name, processor, tuning) =>
      new Worker(name, processor, { ...tuning, connection: consumer, prefix: queuePrefix(prefix, name) }),
    readEpoch: async (queue) => (await producer.hget(queueKey(prefix, queue, 'meta'), EPOCH_FIELD)) ?? undefined,
    writeEpoch: async (queue, epoch) => {
      await producer.hset(queueKey(prefix, queue, 'meta'), EPOCH_FIELD, epoch);
    },
    delayedUntil: (queue, jobIds) => delayedInRedis(producer, (part) => queueKey(prefix, queue, part), jobIds),
    placesOf: (queue, jobIds) => placesInRedis(producer, (part) => queueKey(prefix, queue, part), jobIds),
    waitingJobs: (queue, cursor, limit) =>
      waitingInRedis(producer, (part) => queueKey(prefix, queue, part), cursor, limit),
    readCounter: async () => (await producer.get(counterKey(prefix))) ?? undefined,
    writeCounter: async (counter) => void (await producer.eval(RAISE_COUNTER, 1, counterKey(prefix), counter)),
    memory: async () => memoryOf(await producer.info('memory')),
    ping: async () => void (await producer.ping()),
    close: () => {
      producer.disconnect();
      consumer.disconnect();
      return Promise.resolve();
    },
  };
}

/** Our field in BullMQ's hash of a queue's own data, which goes when the rest goes. */
const EPOCH_FIELD = 'outboxEpoch';

function queueKey(prefix: string, queue: string, type: string): string {
  return `${queuePrefix(prefix, queue)}:${queue}:${type}`;
}

function counterKey(prefix: string): string {
  return `${prefix}:restore`;
}

/** Bridges write side by side: an older number must not replace a newer one. Exact up to 2^53. */
const RAISE_COUNTER = `
  if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or '0') then redis.call('SET', KEYS[1], ARGV[1]) end`;

function memoryOf(info: string): Memory | undefined {
  const bytes = (field: string) => Number(new RegExp(`^${field}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const maxBytes = bytes('maxmemory');
  return maxBytes === 0 ? undefined : { usedBytes: bytes('used_memory'), maxBytes };
}

/** One hash tag a queue: on Redis Cluster a queue lives on one shard, and queues spread over shards. */
function queuePrefix(prefix: string, queue: string): string {
  return `{${prefix}:${queue}}`;
}

async function firstConnection(redis: Redis, url: string): Promise<void> {
  // ioredis reports the reason as an event and rejects connect() with a bare "Connection is closed."
  let reason = '';
  const remember = (error: Error) => (reason = error.message || reason);
  redis.on('error', remember);
  try {
    await redis.connect();
  } catch (error) {
    redis.disconnect();
    throw new UnavailableError(
      `Redis at ${new URL(url).host} does not answer (${reason || String(error)}). ` +
        'Start it, point REDIS_URL elsewhere, or set QUEUE_BACKEND=postgres.',
      { cause: error },
    );
  } finally {
    redis.off('error', remember);
  }
}

/** Each queue and worker holds one connection for LISTEN; the rest serve statements. */
const POSTGRES_BACKEND_CONNECTIONS = 12;

async function connectPostgresBackend(url: string, onError: (error: Error) => void): Promise<QueueBackend> {
  // Given as a pool, not as a URL: BullMQ loads `pg` with require(), which native ES modules do not have.
  const pool = new pg.Pool({
    connectionString: url,
    application_name: 'outbox bullmq',
    max: POSTGRES_BACKEND_CONNECTIONS,
    keepAlive: true,
    options: '-c search_path=bullmq',
  });
  pool.on('error', onError);
  try {
    await pool.query('select 1 from bullmq.bullmq_migrations limit 1').catch(() => pool.query('select 1'));
  } catch (error) {
    await pool.end();
    throw new UnavailableError(`Postgres does not answer as queue backend (${String(error)}). Check DATABASE_URL.`, {
      cause: error,
    });
  }
  // The class of a queue or worker carries the type of its connection options, which no caller of ours looks at: the two
  // assertions give both backends one type.
  return {
    kind: 'postgres',
    createQueue: (name) => {
      const queue = new Queue(name, { connection: pool }, createPostgresBackend);
      queue.on('error', onError);
      return queue as unknown as Queue;
    },
    createWorker: (name, processor, tuning) =>
      new Worker(name, processor, { ...tuning, connection: pool }, createPostgresBackend) as unknown as Worker,
    readEpoch: async (queue) => {
      const { rows } = await pool.query<{ value: string }>(
        'select value from bullmq.meta where queue = $1 and field = $2 limit 1',
        [queue, EPOCH_FIELD],
      );
      return rows[0]?.value;
    },
    writeEpoch: async (queue, epoch) => {
      await pool.query(
        /* sql */ `
        insert into bullmq.meta (queue, field, value) values ($1, $2, $3)
        on conflict (queue, field) do update set value = excluded.value`,
        [queue, EPOCH_FIELD, epoch],
      );
    },
    delayedUntil: (queue, jobIds) => delayedInPostgres(pool, queue, jobIds),
    placesOf: (queue, jobIds) => placesInPostgres(pool, queue, jobIds),
    waitingJobs: (queue, cursor, limit) => waitingInPostgres(pool, queue, cursor, limit),
    readCounter: () => Promise.resolve(undefined),
    writeCounter: () => Promise.resolve(),
    memory: () => Promise.resolve(undefined),
    ping: async () => void (await pool.query('select 1')),
    close: () => pool.end(),
  };
}

import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { connectQueueBackend, createPool, MINUTE, withTransaction, type Pool, type PoolClient } from '@outbox/core';
import { freePort } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { startTwilioSimulator, type TwilioSimulator } from '@outbox/simulators';
import { startFaultProxy, type FaultProxy } from '@outbox/testing';
import type { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { Business } from './business/business.ts';
import { DELAY_MS, type BusinessPlan } from './business/plan.ts';
import { CAST, QUEUES } from './cast.ts';
import type { History } from './history.ts';
import { PostgresServer, RedisServer } from './servers.ts';
import { Supervisor, type Role, type ServiceSpec } from './supervisor.ts';

const INSTANCE = 'chaos';
const SERVICE_KEY = 'chaos-service-key-0123456789';

/** The services log in as this role, which owns nothing, and take their own. */
export const SERVICE_LOGIN = 'chaos_services';
const SERVICE_PASSWORD = 'chaos';

/** The life of a job in seconds instead of days. Attempts are generous: no trouble of a provider's may fail a row. */
const QUICK_JOBS = /* sql */ `
  update outbox.job_types
  set operator_delay = $1 * interval '1 ms', operator_backoff = interval '500 ms', operator_max_attempts = 20`;

/** Providers are away for seconds here: so are the waits for them. */
const QUICK_PROBES = /* sql */ `
  update outbox.providers set probe_after = interval '1 s', longest_probe_wait = interval '3 s'`;

const CREATE_LOGIN = /* sql */ `
  create role ${SERVICE_LOGIN} login noinherit password '${SERVICE_PASSWORD}';
  grant outbox_bridge, outbox_worker, outbox_api to ${SERVICE_LOGIN}`;

const BRIDGE_SETTINGS = { SWEEP_INTERVAL: '5s' };
const WORKER_SETTINGS = { LEASE: '3s', STALLED_INTERVAL: '1s', SMS_TIMEOUT_MS: '1000', DRAIN: '2s' };

/** More messages than any run sends. */
const MESSAGE_LIMIT = 10_000_000;

export interface StagedService {
  role: Role;
  supervisor: Supervisor;
  /** Between it and the servers. */
  links: { postgres: FaultProxy; redis: FaultProxy };
}

/** Servers, services and what stands between them: everything a run plays on. */
export interface Stage {
  postgres: PostgresServer;
  redis: RedisServer;
  sms: TwilioSimulator;
  /** Straight to Postgres, for looking and for faults. */
  admin: Pool;
  /** Straight to Redis. Commands fail at once while it is away. */
  redisClient: Redis;
  queues: Queue[];
  business: Business;
  services: StagedService[];
  /** Steps at which a process was killed. */
  stepsHit: Set<string>;
  /** Aborts when the time of faults is over: whoever holds something broken mends it. */
  over: AbortSignal;
  /** Waits for `ms`, or until faults are over. */
  hold(ms: number): Promise<void>;
  /** Repeats what has to be done until it is. */
  persist(work: () => Promise<unknown>): Promise<void>;
  /** Runs `work` in a transaction of some careless application, whatever becomes of it. */
  idleTransaction(work: (client: PoolClient) => Promise<void>): Promise<void>;
  untilPostgresAnswers(): Promise<void>;
  service(name: string): StagedService;
  queue(name: string): Queue;
}

/** Undone in reverse. */
export type Cleanup = () => Promise<unknown> | void;

export interface StageOptions {
  history: History;
  plan: BusinessPlan;
  over: AbortSignal;
  /** Receives what has to be undone, as soon as it has to be. */
  cleanups: Cleanup[];
}

/** Starts servers and services and waits until all are ready. */
export async function setStage({ history, plan, over, cleanups }: StageOptions): Promise<Stage> {
  const { postgres, redis } = await startServers(history, cleanups);
  await migrate({ databaseUrl: postgres.url, instance: INSTANCE, backend: 'redis', timings: 'demo', host: true });
  const admin = openPool(postgres.url, 6, cleanups);
  await admin.query(QUICK_JOBS, [DELAY_MS]);
  await admin.query(QUICK_PROBES);
  await admin.query(CREATE_LOGIN);

  const sms = await startTwilioSimulator({ messageLimit: MESSAGE_LIMIT });
  cleanups.push(() => sms.close());
  const services = await startServices({ postgres, redis, sms, history, cleanups });
  const api = services.find(({ role }) => role === 'api');
  const business = new Business({
    pool: openPool(postgres.url, BUSINESS_CONNECTIONS, cleanups),
    apiUrl: new URL('/', api?.supervisor.spec.readyUrl).origin,
    serviceKey: SERVICE_KEY,
    plan,
    note: (event) => history.note('actions', event),
  });
  const idlePool = openPool(postgres.url, 30, cleanups);
  const redisClient = openRedis(redis.url, cleanups);
  const queues = await openQueues(postgres.url, redis.url, cleanups);
  return {
    postgres,
    redis,
    sms,
    admin,
    redisClient,
    queues,
    business,
    services,
    stepsHit: new Set(),
    over,
    hold: (ms) => wait(ms, undefined, { signal: over }).catch(() => undefined),
    persist,
    idleTransaction: (work) => withTransaction(idlePool, work).catch(() => undefined),
    untilPostgresAnswers: () => persist(() => admin.query('select 1')),
    service: (name) => find(services, name, ({ supervisor }) => supervisor.name),
    queue: (name) => find(queues, name, (queue) => queue.name),
  };
}

async function startServers(history: History, cleanups: Cleanup[]) {
  const postgres = new PostgresServer(join(history.folder, 'postgres'), history.logFile('postgres'));
  const redis = new RedisServer(join(history.folder, 'redis'));
  for (const server of [postgres, redis]) {
    cleanups.push(
      () => server.remove(),
      () => server.stop(),
    );
  }
  await Promise.all([postgres.start(), redis.start()]);
  return { postgres, redis };
}

interface ServiceNeeds {
  postgres: PostgresServer;
  redis: RedisServer;
  sms: TwilioSimulator;
  history: History;
  cleanups: Cleanup[];
}

async function startServices(needs: ServiceNeeds): Promise<StagedService[]> {
  const services: StagedService[] = [];
  for (const { name, role } of CAST) services.push(await prepareService(name, role, needs));
  await Promise.all(services.map(({ supervisor }) => supervisor.start()));
  await Promise.all(services.map(({ supervisor }) => supervisor.ready(1 * MINUTE)));
  return services;
}

async function prepareService(name: string, role: Role, needs: ServiceNeeds): Promise<StagedService> {
  const login = new URL(needs.postgres.url);
  login.username = SERVICE_LOGIN;
  login.password = SERVICE_PASSWORD;
  const links = { postgres: await startFaultProxy(login.href), redis: await startFaultProxy(needs.redis.url) };
  const port = await freePort();
  const supervisor = new Supervisor({
    name,
    role,
    env: envOf(role, { port, databaseUrl: links.postgres.url, redisUrl: links.redis.url, smsUrl: needs.sms.url }),
    readyUrl: `http://127.0.0.1:${port}/readyz`,
    logFile: needs.history.logFile(name),
  });
  needs.cleanups.push(
    () => Promise.all([links.postgres.close(), links.redis.close()]),
    () => supervisor.stop(),
  );
  return { role, supervisor, links };
}

interface Addresses {
  port: number;
  databaseUrl: string;
  redisUrl: string;
  smsUrl: string;
}

function envOf(role: Role, { port, databaseUrl, redisUrl, smsUrl }: Addresses): ServiceSpec['env'] {
  const shared = {
    DATABASE_URL: databaseUrl,
    DATABASE_ROLE: `outbox_${role}`,
    REDIS_URL: redisUrl,
    OUTBOX_INSTANCE: INSTANCE,
  };
  switch (role) {
    case 'bridge':
      return { ...shared, ...BRIDGE_SETTINGS, HEALTH_PORT: String(port) };
    case 'worker':
      return { ...shared, ...WORKER_SETTINGS, HEALTH_PORT: String(port), SMS_SIMULATOR_URL: smsUrl };
    case 'api':
      return {
        ...shared,
        PORT: String(port),
        HOST: '127.0.0.1',
        SERVICE_KEYS: SERVICE_KEY,
        BOARD_PASSWORD: 'chaos-board-password',
        SESSION_SECRETS: 'chaos-session-secret-0123456789-0123456789',
        RATE_LIMIT_PER_MINUTE: '1000000',
      };
  }
}

/** Its connections are never closed for idling: what is measured with it is a write, not a login. */
/** As an application of this size has on so small a machine; each has to plan anew after every restart of Postgres. */
const BUSINESS_CONNECTIONS = 15;

function openPool(url: string, max: number, cleanups: Cleanup[]): Pool {
  const pool = createPool({ url, applicationName: 'chaos', max, onError: () => undefined });
  cleanups.push(() => pool.end());
  return pool;
}

function openRedis(url: string, cleanups: Cleanup[]): Redis {
  const client = new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, retryStrategy: () => 100 });
  client.on('error', () => undefined);
  cleanups.push(() => client.disconnect());
  return client;
}

async function openQueues(databaseUrl: string, redisUrl: string, cleanups: Cleanup[]): Promise<Queue[]> {
  const backend = await connectQueueBackend(
    {
      DATABASE_URL: databaseUrl,
      DATABASE_POOLED: false,
      OUTBOX_INSTANCE: INSTANCE,
      QUEUE_BACKEND: 'redis',
      REDIS_URL: redisUrl,
      QUEUE_PREFIX: 'outbox',
      LOG_LEVEL: 'error',
    },
    () => undefined,
  );
  const queues = QUEUES.map((name) => backend.createQueue(name));
  cleanups.push(
    () => backend.close(),
    () => Promise.all(queues.map((queue) => queue.close().catch(() => undefined))),
  );
  return queues;
}

const PERSIST_FOR_MS = 1 * MINUTE;
const PERSIST_EVERY_MS = 100;

async function persist(work: () => Promise<unknown>): Promise<void> {
  const deadline = Date.now() + PERSIST_FOR_MS;
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await wait(PERSIST_EVERY_MS);
  }
}

function find<T>(list: readonly T[], name: string, nameOf: (each: T) => string): T {
  const found = list.find((each) => nameOf(each) === name);
  if (!found) throw new Error(`There is no ${name} on the stage`);
  return found;
}

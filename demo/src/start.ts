import { execFileSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { ConfigError, createPool, MINUTE, UnavailableError, type Pool } from '@outbox/core';
import { findRedisServer, freePort, startLocalPostgres, startLocalRedis } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { INSERT_YOUR_OWN, prepareCast } from './cast.ts';
import { noteLocalPostgresUrl } from './local-url.ts';
import { assertDemonstrable, ownsHostTables } from './own-database.ts';
import { Narrator } from './narrator.ts';
import { createScreen, type Screen } from './screen.ts';
import { loadSecrets, type Secrets } from './secrets.ts';
import { ServiceProcess } from './service-process.ts';
import { playStory } from './story.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
/** Where the demonstration keeps its data, logs and secrets. */
const HOME = process.env.OUTBOX_HOME || join(REPOSITORY, '.outbox');
const INSTANCE = 'demo';

/** The psql command stays the same from start to start, unless the port is taken. */
const POSTGRES_PORT = 54329;

const STORY_TIMEOUT_MS = 2 * MINUTE;

interface Servers {
  databaseUrl: string;
  redisUrl: string | undefined;
}

interface Ports {
  api: number;
  simulator: number;
  bridge: number;
  worker: number;
}

/** Undone in reverse on the way out. */
type Cleanup = () => Promise<unknown>;

/**
 * Starts PostgreSQL, Redis, the simulator, the bridge, the worker and the API on this machine, plays the story, then
 * tells what happens until Ctrl-C. Exits 0 after Ctrl-C, 1 when something could not be started, with one clear line.
 */
export async function start(): Promise<void> {
  const screen = createScreen(process.stdout);
  const cleanups: Cleanup[] = [];
  const stopping = new AbortController();
  const stopped = onStop(stopping, screen);
  let exitCode = 0;
  try {
    await Promise.race([run(screen, cleanups, stopping.signal), stopped]);
  } catch (error) {
    exitCode = 1;
    screen.say(`\n${describe(error)}`);
  }
  stopping.abort();
  for (const cleanup of cleanups.reverse()) await cleanup().catch((error: unknown) => screen.say(describe(error)));
  screen.say(exitCode === 0 ? 'Stopped. Your data is kept; npm start finds it again.' : 'Stopped.');
  process.exit(exitCode);
}

/** The first signal stops in order, the second at once. */
function onStop(stopping: AbortController, screen: Screen): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (stopping.signal.aborted) process.exit(1);
        screen.say('\nStopping …');
        stopping.abort();
        resolve();
      });
    }
  });
}

async function run(screen: Screen, cleanups: Cleanup[], signal: AbortSignal): Promise<void> {
  await mkdir(join(HOME, 'logs'), { recursive: true });
  const secrets = await loadSecrets(join(HOME, 'secrets.json'));

  const servers = await startServers(screen, cleanups);
  const pool = createPool({
    url: servers.databaseUrl,
    applicationName: 'outbox demo',
    max: 2,
    onError: () => undefined,
  });
  cleanups.push(() => pool.end());
  await screen.step('Migrating the database', () => prepareDatabase(pool, servers));

  const ports = await choosePorts(screen);
  const services = serviceList(servers, ports, secrets);
  await screen.step('Starting simulator, bridge, worker and API', async () => {
    const processes = services.map((options) => {
      const service = new ServiceProcess(options);
      cleanups.push(() => service.stop());
      return service;
    });
    await Promise.all(processes.map((service) => service.ready()));
    for (const service of processes) void service.watch(signal).catch((error: unknown) => fail(error, screen));
  });

  sayWhereToLook(screen, servers, ports, secrets);
  const narrator = new Narrator(pool, (line) => screen.say(`  ${clockTime()}  ${line}`));
  await narrator.start();
  cleanups.push(() => narrator.stop());
  const scene = await playStory(
    pool,
    narrator,
    'Friday climbing',
    AbortSignal.any([signal, AbortSignal.timeout(STORY_TIMEOUT_MS)]),
  );
  screen.say(`\n  The end: texted ${scene.texted.join(', ')}; the auto sync is ${scene.status}.`);
  sayYourTurn(screen, servers);
  await new Promise(() => undefined);
}

/** A service ended that nobody stopped: the way out is the same as Ctrl-C, with its last words and exit code 1. */
function fail(error: unknown, screen: Screen): void {
  screen.say(`\n${describe(error)}`);
  process.exitCode = 1;
  process.emit('SIGTERM');
}

async function startServers(screen: Screen, cleanups: Cleanup[]): Promise<Servers> {
  const log = (line: string) => screen.say(`    ${line}`);
  const databaseUrl =
    process.env.DATABASE_URL ||
    (await screen.step('Starting a private PostgreSQL', async () => {
      const postgres = await startLocalPostgres({ dataDir: join(HOME, 'postgres'), port: POSTGRES_PORT, log });
      cleanups.push(() => postgres.stop());
      await noteLocalPostgresUrl(postgres.url);
      return postgres.url;
    }));
  if (process.env.REDIS_URL) return { databaseUrl, redisUrl: process.env.REDIS_URL };

  const binary = process.env.QUEUE_BACKEND === 'postgres' ? undefined : await findRedisServer();
  if (!binary) {
    screen.say(
      '  • No Redis on this machine: BullMQ runs on its PostgreSQL backend. With Redis it is about ten times faster.',
    );
    return { databaseUrl, redisUrl: undefined };
  }
  return screen.step(`Starting a private Redis (${binary})`, async () => {
    const redis = await startLocalRedis({ binary, dataDir: join(HOME, 'redis'), persistent: true });
    cleanups.push(() => redis.stop());
    return { databaseUrl, redisUrl: redis.url };
  });
}

async function prepareDatabase(pool: Pool, { databaseUrl, redisUrl }: Servers): Promise<void> {
  await assertDemonstrable(pool);
  await migrate({
    databaseUrl,
    instance: INSTANCE,
    backend: redisUrl ? 'redis' : 'postgres',
    timings: 'demo',
    host: await ownsHostTables(pool),
  });
  await prepareCast(pool);
}

async function choosePorts(screen: Screen): Promise<Ports> {
  const choose = async (what: string, wanted: number) => {
    const port = await freePort(wanted);
    if (port !== wanted) screen.say(`  • Port ${wanted} is taken: the ${what} uses ${port}.`);
    return port;
  };
  return {
    api: await choose('API', 4000),
    simulator: await choose('SMS simulator', 4010),
    bridge: await choose("bridge's health check", 4001),
    worker: await choose("worker's health check", 4002),
  };
}

function serviceList(servers: Servers, ports: Ports, secrets: Secrets) {
  const shared = {
    DATABASE_URL: servers.databaseUrl,
    OUTBOX_INSTANCE: INSTANCE,
    QUEUE_BACKEND: servers.redisUrl ? 'redis' : 'postgres',
    REDIS_URL: servers.redisUrl ?? '',
  };
  const at = (port: number, path: string) => `http://127.0.0.1:${port}${path}`;
  const service = (name: string, main: string, readyUrl: string, env: Record<string, string>) => ({
    name,
    main: join(REPOSITORY, main),
    readyUrl,
    env,
    logFile: join(HOME, 'logs', `${name}.log`),
  });
  return [
    service('simulator', 'simulators/dist/main.js', at(ports.simulator, '/healthz'), { PORT: `${ports.simulator}` }),
    service('bridge', 'services/bridge/dist/main.js', at(ports.bridge, '/readyz'), {
      ...shared,
      DATABASE_ROLE: 'outbox_bridge',
      HEALTH_PORT: `${ports.bridge}`,
    }),
    service('worker', 'services/worker/dist/main.js', at(ports.worker, '/readyz'), {
      ...shared,
      DATABASE_ROLE: 'outbox_worker',
      HEALTH_PORT: `${ports.worker}`,
      SMS_PROVIDER: 'simulator',
      SMS_SIMULATOR_URL: at(ports.simulator, ''),
      DRAIN: '5s',
    }),
    service('api', 'services/api/dist/main.js', at(ports.api, '/readyz'), {
      ...shared,
      DATABASE_ROLE: 'outbox_api',
      HOST: '127.0.0.1',
      PORT: `${ports.api}`,
      SERVICE_KEYS: secrets.serviceKey,
      BOARD_USER: 'operator',
      BOARD_PASSWORD: secrets.boardPassword,
      SESSION_SECRETS: secrets.sessionSecret,
    }),
  ];
}

function sayWhereToLook(screen: Screen, { databaseUrl }: Servers, ports: Ports, secrets: Secrets): void {
  screen.say(`
  Bull Board   http://127.0.0.1:${ports.api}/admin/queues   login operator / ${secrets.boardPassword}
  Texts sent   http://127.0.0.1:${ports.simulator}   (a simulator: nobody receives anything)
  API          http://127.0.0.1:${ports.api}/api/jobs   Authorization: Bearer ${secrets.serviceKey}
  Postgres     psql "${databaseUrl}"
  Logs         ${relative(process.cwd(), join(HOME, 'logs')) || '.'}

  The story, with seconds for what takes 24 and 48 hours in production:
`);
}

function sayYourTurn(screen: Screen, { databaseUrl }: Servers): void {
  const command = hasPsql() ? `psql "${databaseUrl}" -c` : 'npm run sql --';
  screen.say(`
  Your turn, in another terminal:

  ${command} "${INSERT_YOUR_OWN}"

  Ctrl-C stops everything.
`);
}

function hasPsql(): boolean {
  try {
    execFileSync('psql', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function clockTime(): string {
  return new Date().toTimeString().slice(0, 8);
}

function describe(error: unknown): string {
  if (error instanceof ConfigError || error instanceof UnavailableError) return error.message;
  return error instanceof Error ? error.message : String(error);
}

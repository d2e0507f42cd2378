import { execFileSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { ConfigError, createPool, loadConfig, MINUTE, UnavailableError, type Pool } from '@outbox/core';
import { familiesSetting, type FamilyName } from '@outbox/jobs';
import { findRedisServer, freePort, startLocalPostgres, startLocalRedis } from '@outbox/local';
import { migrate } from '@outbox/postgres';
import { z } from 'zod';
import { playActs } from './acts.ts';
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
  const { FAMILIES: families } = loadConfig(z.object(familiesSetting), process.env);

  const servers = await startServers(screen, cleanups);
  const pool = createPool({
    url: servers.databaseUrl,
    applicationName: 'outbox demo',
    max: 2,
    onError: () => undefined,
  });
  cleanups.push(() => pool.end());
  await screen.step('Migrating the database', () => prepareDatabase(pool, servers, families));

  const ports = await choosePorts(screen);
  const services = serviceList(servers, ports, secrets, families);
  await screen.step('Starting simulators, bridge, worker and API', async () => {
    const processes = services.map((options) => {
      const service = new ServiceProcess(options);
      cleanups.push(() => service.stop());
      return service;
    });
    await Promise.all(processes.map((service) => service.ready()));
    for (const service of processes) void service.watch(signal).catch((error: unknown) => fail(error, screen));
  });

  sayWhereToLook(screen, servers, ports, secrets);
  const say = (line: string) => screen.say(`  ${clockTime()}  ${line}`);
  const narrator = new Narrator(pool, say);
  await narrator.start();
  cleanups.push(() => narrator.stop());
  const inTime = AbortSignal.any([signal, AbortSignal.timeout(STORY_TIMEOUT_MS)]);
  const others = playActs(pool, families, say, inTime);
  const scene = families.includes('reminders') ? await playStory(pool, narrator, 'Friday climbing', inTime) : undefined;
  await others;
  const end = scene ? `texted ${scene.texted.join(', ')}; the auto sync is ${scene.status}` : families.join(', ');
  screen.say(`\n  The end: ${end}.`);
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

async function prepareDatabase(
  pool: Pool,
  { databaseUrl, redisUrl }: Servers,
  families: readonly FamilyName[],
): Promise<void> {
  await assertDemonstrable(pool);
  await migrate({
    databaseUrl,
    instance: INSTANCE,
    backend: redisUrl ? 'redis' : 'postgres',
    timings: 'demo',
    families,
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
    simulator: await choose('simulators', 4010),
    bridge: await choose("bridge's health check", 4001),
    worker: await choose("worker's health check", 4002),
  };
}

function serviceList(servers: Servers, ports: Ports, secrets: Secrets, families: readonly FamilyName[]) {
  const shared = {
    DATABASE_URL: servers.databaseUrl,
    OUTBOX_INSTANCE: INSTANCE,
    FAMILIES: families.join(','),
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
      BUBBLE_SIMULATOR_URL: at(ports.simulator, '/bubble'),
      GOOGLE_SIMULATOR_URL: at(ports.simulator, '/google'),
      GOLIOTH_SIMULATOR_URL: at(ports.simulator, '/golioth'),
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
  Providers    http://127.0.0.1:${ports.simulator}   (simulators: nobody receives anything)
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

import { spawn, type ChildProcess, execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chown, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createPool, SECOND, UnavailableError, type Queryable } from '@outbox/core';
import { freePort } from './ports.ts';
import { postgresBinaries, type PostgresBinaries } from './postgres-binaries.ts';
import { serverUser, type ServerUser } from './postgres-user.ts';
import { claimFolder, isRunning, readPid, stopServer, type StopStep } from './processes.ts';
import { rootsFolder, serverFolder } from './server-folder.ts';

const run = promisify(execFile);

const HOST = '127.0.0.1';
const NAME = 'outbox';
const START_TIMEOUT_MS = 60 * SECOND;
const POLL_MS = 20;

/** Somebody may take a free port between our look and the server's start. */
const PORT_TRIES = 3;

/** SIGINT is PostgreSQL's fast shutdown: sessions are ended, data is written. SIGQUIT leaves recovery to the next start. */
const FAST_SHUTDOWN: StopStep[] = [
  ['SIGINT', 10 * SECOND],
  ['SIGQUIT', 5 * SECOND],
  ['SIGKILL', 5 * SECOND],
];

export interface LocalPostgresOptions {
  /** Ours alone; created when missing. A second start with the same folder finds the data of the first. */
  dataDir: string;
  /** Wanted port. When it is taken, or none is named, a free one is used. */
  port?: number;
  /** Server settings, as in postgresql.conf. They hold for this start only. */
  settings?: Record<string, string>;
  /** Receives a line when something takes time or is not as asked. */
  log?: (line: string) => void;
}

export interface LocalPostgres {
  /** Superuser `outbox`, database `outbox`, password included. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
  readonly pid: number;
  /** Where the data really is: elsewhere than asked when root's server could not reach the folder. */
  readonly dataDir: string;
  /** True when a server that a killed start had left on this data was found running. It was shut down and replaced. */
  readonly alreadyRunning: boolean;
  /** Fast shutdown, waited for. May be called again. */
  stop(): Promise<void>;
}

/**
 * Starts the PostgreSQL that npm installed, reachable on 127.0.0.1 only. It is a process group of its own, so that Ctrl-C
 * ends the services first and the caller, last of all, calls `stop`. As root it runs as the user `postgres` or `nobody`.
 *
 * Throws `UnavailableError` with the server's last words when it does not start, or when a running process uses `dataDir`.
 */
export async function startLocalPostgres(options: LocalPostgresOptions): Promise<LocalPostgres> {
  const log = options.log ?? (() => undefined);
  const anybody = await serverUser(join(options.dataDir, 'cluster'));
  const home = await serverFolder(options.dataDir, anybody);
  const cluster = join(home, 'cluster');
  const user = await serverUser(cluster);
  const binaries = await postgresBinaries(
    user,
    user.uid === undefined ? () => Promise.resolve(home) : rootsFolder,
    log,
  );

  const release = await claimFolder(home);
  let stop = release;
  try {
    const alreadyRunning = await stopLeftover(cluster);
    if (alreadyRunning) log('Stopped the PostgreSQL that an earlier start had left running.');
    const password = await passwordIn(home, user);
    if (!existsSync(cluster)) await createCluster(home, binaries, user);
    const { pid, port } = await startOnFreePort({ home, cluster, binaries, user, ...options });
    stop = () => stopServer({ pid, folder: cluster }, FAST_SHUTDOWN).then(release);
    const url = (database: string) => `postgres://${NAME}:${password}@${HOST}:${port}/${database}`;
    await createDatabase(url('postgres'));
    return { url: url(NAME), host: HOST, port, pid, dataDir: home, alreadyRunning, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * Stops a server whose starter was killed. When the pid file names a process that is no PostgreSQL of ours (a number
 * used again, usual in containers), the file goes, because PostgreSQL itself would refuse to start beside it.
 */
async function stopLeftover(cluster: string): Promise<boolean> {
  const pidFile = join(cluster, 'postmaster.pid');
  const pid = await readPid(pidFile);
  if (pid === undefined) return false;
  const leftover = { pid, folder: cluster };
  const wasRunning = await isRunning(leftover);
  await stopServer(leftover, FAST_SHUTDOWN);
  await rm(pidFile, { force: true });
  return wasRunning;
}

/** Kept beside the data, readable by the server's user only, so that the next start knows it. */
async function passwordIn(home: string, user: ServerUser): Promise<string> {
  const file = join(home, 'password');
  const known = await readFile(file, 'utf8').catch(() => '');
  if (known !== '') return known.trim();
  const password = randomBytes(24).toString('hex');
  await writeFile(file, `${password}\n`, { mode: 0o600 });
  await giveTo(user, file);
  return password;
}

/** Appears under its name only when it is complete: a crash half-way is not taken for a cluster. */
async function createCluster(home: string, { initdb }: PostgresBinaries, user: ServerUser): Promise<void> {
  const draft = join(home, 'cluster.new');
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { mode: 0o700 });
  await giveTo(user, draft);
  // The same everywhere, whatever the machine's locale: text sorts by bytes.
  const alike = ['--locale=C', '--encoding=UTF8'];
  const access = [`--username=${NAME}`, '--auth=scram-sha-256', `--pwfile=${join(home, 'password')}`];
  await run(initdb, [`--pgdata=${draft}`, ...access, ...alike, '--no-instructions', '--no-sync'], {
    ...user,
    cwd: '/',
    env: serverEnvironment,
  });
  await rename(draft, join(home, 'cluster'));
}

/** Nothing inherited: PGDATA, PGPORT and their kin would change what the server does. */
const serverEnvironment = { PATH: process.env.PATH ?? '', LC_ALL: 'C' };

async function giveTo({ uid, gid }: ServerUser, path: string): Promise<void> {
  if (uid !== undefined && gid !== undefined) await chown(path, uid, gid);
}

interface StartOptions extends Pick<LocalPostgresOptions, 'port' | 'settings'> {
  home: string;
  cluster: string;
  binaries: PostgresBinaries;
  user: ServerUser;
}

interface RunningServer {
  pid: number;
  port: number;
}

async function startOnFreePort(options: StartOptions): Promise<RunningServer> {
  const logFile = join(options.home, 'postgres.log');
  for (let attempt = 1; ; attempt += 1) {
    const port = await freePort(attempt === 1 ? options.port : undefined);
    const pid = await startServer(options, port, logFile);
    if (pid !== undefined) return { pid, port };
    const words = await readFile(logFile, 'utf8').catch(() => '');
    if (attempt < PORT_TRIES && words.includes('could not bind')) continue;
    throw new UnavailableError(`PostgreSQL does not start in ${options.cluster}:\n${words.trim()}\nSee ${logFile}.`);
  }
}

/** Resolves with the pid when the server accepts connections, with undefined when it ended before that. */
async function startServer(
  { cluster, binaries, user, settings }: StartOptions,
  port: number,
  logFile: string,
): Promise<number | undefined> {
  const all = { listen_addresses: HOST, port: String(port), unix_socket_directories: '', ...settings };
  const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  // A file and not a pipe: the server may outlive us.
  const output = await open(logFile, 'w', 0o600);
  const child = spawn(binaries.postgres, ['-D', cluster, ...flags], {
    ...user,
    cwd: '/',
    env: serverEnvironment,
    detached: true,
    stdio: ['ignore', output.fd, output.fd],
  });
  child.unref();
  child.on('error', () => undefined);
  await output.close();
  return (await isReady(child, cluster)) ? child.pid : undefined;
}

/** PostgreSQL writes its state into the eighth line of its pid file. */
async function isReady(child: ChildProcess, cluster: string): Promise<boolean> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
    const lines = (await readFile(join(cluster, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
    if (Number(lines[0]) === child.pid && lines[7]?.trim() === 'ready') return true;
    if (Date.now() > deadline) {
      await stopServer({ pid: child.pid, folder: cluster }, FAST_SHUTDOWN);
      return false;
    }
    await sleep(POLL_MS);
  }
  return false;
}

async function createDatabase(url: string): Promise<void> {
  const pool = createPool({ url, applicationName: 'outbox local', max: 1, onError: () => undefined });
  try {
    if (!(await databaseExists(pool))) await pool.query(`create database ${NAME}`);
  } finally {
    await pool.end();
  }
}

async function databaseExists(db: Queryable): Promise<boolean> {
  const { rows } = await db.query('select 1 from pg_database where datname = $1 limit 1', [NAME]);
  return rows.length > 0;
}

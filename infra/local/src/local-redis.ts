import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { delimiter, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { SECOND, UnavailableError } from '@outbox/core';
import { freePort } from './ports.ts';
import { claimFolder, isRunning, readPid, stopServer, type StopStep } from './processes.ts';

const run = promisify(execFile);

const HOST = '127.0.0.1';
const START_TIMEOUT_MS = 20 * SECOND;
const POLL_MS = 20;
const PORT_TRIES = 3;

const PROGRAMS = ['redis-server', 'valkey-server'];

/** Where packages put servers that an ordinary user's PATH need not name. */
const USUAL_FOLDERS = ['/usr/sbin', '/usr/local/sbin', '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin', '/snap/bin'];

/** BullMQ's recommended minimum. */
const OLDEST_VERSION = [6, 2] as const;

const SHUTDOWN: StopStep[] = [
  ['SIGTERM', 10 * SECOND],
  ['SIGKILL', 5 * SECOND],
];

/** Path of a Redis or Valkey server, 6.2 or newer, on this machine; undefined when there is none. */
export async function findRedisServer(): Promise<string | undefined> {
  const folders = new Set([...(process.env.PATH ?? '').split(delimiter), ...USUAL_FOLDERS]);
  for (const program of PROGRAMS) {
    for (const folder of folders) {
      const binary = join(folder, program);
      if (folder !== '' && (await isRecentEnough(binary))) return binary;
    }
  }
  return undefined;
}

async function isRecentEnough(binary: string): Promise<boolean> {
  const { stdout } = await run(binary, ['--version']).catch(() => ({ stdout: '' }));
  const [, major, minor] = /\bv=(\d+)\.(\d+)/.exec(stdout) ?? [];
  if (major === undefined || minor === undefined) return false;
  const [oldestMajor, oldestMinor] = OLDEST_VERSION;
  return Number(major) > oldestMajor || (Number(major) === oldestMajor && Number(minor) >= oldestMinor);
}

export interface LocalRedisOptions {
  /** From `findRedisServer`. */
  binary: string;
  /** Ours alone; created when missing. */
  dataDir: string;
  /** Wanted port. When it is taken, or none is named, a free one is used. */
  port?: number;
  /** True: an append-only file, written every second, survives a restart. False: nothing is kept. */
  persistent: boolean;
}

export interface LocalRedis {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  readonly pid: number;
  /** True when a server that a killed start had left on this data was found running. It was shut down and replaced. */
  readonly alreadyRunning: boolean;
  /** Shuts down and waits for it. May be called again. */
  stop(): Promise<void>;
}

/**
 * Starts a Redis of our own on 127.0.0.1, as BullMQ wants it (`noeviction`), in a process group of its own: Ctrl-C ends
 * the services first. Throws `UnavailableError` with the server's last words when it does not start, or when a running
 * process uses `dataDir`.
 */
export async function startLocalRedis(options: LocalRedisOptions): Promise<LocalRedis> {
  const dataDir = resolve(options.dataDir);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const release = await claimFolder(dataDir);
  try {
    const alreadyRunning = await stopLeftover(dataDir);
    const { pid, port } = await startOnFreePort({ ...options, dataDir });
    const stop = () => stopServer({ pid, folder: dataDir }, SHUTDOWN).then(release);
    return { url: `redis://${HOST}:${port}`, host: HOST, port, pid, alreadyRunning, stop };
  } catch (error) {
    await release();
    throw error;
  }
}

async function stopLeftover(dataDir: string): Promise<boolean> {
  const pid = await readPid(pidFile(dataDir));
  if (pid === undefined) return false;
  const leftover = { pid, folder: dataDir };
  const wasRunning = await isRunning(leftover);
  await stopServer(leftover, SHUTDOWN);
  await rm(pidFile(dataDir), { force: true });
  return wasRunning;
}

function pidFile(dataDir: string): string {
  return join(dataDir, 'redis.pid');
}

async function startOnFreePort(options: LocalRedisOptions): Promise<{ pid: number; port: number }> {
  const logFile = join(options.dataDir, 'redis.log');
  for (let attempt = 1; ; attempt += 1) {
    const port = await freePort(attempt === 1 ? options.port : undefined);
    await writeFile(logFile, '');
    const pid = await startServer(options, port, logFile);
    if (pid !== undefined) return { pid, port };
    const words = await readFile(logFile, 'utf8').catch(() => '');
    if (attempt < PORT_TRIES && words.includes('Address already in use')) continue;
    throw new UnavailableError(`${options.binary} does not start:\n${words.trim()}\nSee ${logFile}.`);
  }
}

/** Resolves with the pid when the server answers, with undefined when it ended before that. */
async function startServer(
  { binary, dataDir, persistent }: LocalRedisOptions,
  port: number,
  logFile: string,
): Promise<number | undefined> {
  const settings = {
    bind: HOST,
    port,
    'protected-mode': 'yes',
    daemonize: 'no',
    // Our command line stays as it is, and with it the folder by which a later start knows us.
    'set-proc-title': 'no',
    dir: dataDir,
    pidfile: pidFile(dataDir),
    logfile: logFile,
    'maxmemory-policy': 'noeviction',
    save: '',
    appendonly: persistent ? 'yes' : 'no',
    appendfsync: 'everysec',
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = spawn(binary, flags, { cwd: '/', detached: true, stdio: 'ignore' });
  child.unref();
  child.on('error', () => undefined);
  return (await isReady(child, port, dataDir)) ? child.pid : undefined;
}

async function isReady(child: ChildProcess, port: number, dataDir: string): Promise<boolean> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
    // The pid file tells our server from another Redis that was faster to take the port.
    if ((await readPid(pidFile(dataDir))) === child.pid && (await answersPing(port))) return true;
    if (Date.now() > deadline) {
      await stopServer({ pid: child.pid, folder: dataDir }, SHUTDOWN);
      return false;
    }
    await sleep(POLL_MS);
  }
  return false;
}

/** False also while Redis is still loading its data. */
async function answersPing(port: number): Promise<boolean> {
  const socket = connect(port, HOST);
  try {
    await once(socket, 'connect');
    socket.write('PING\r\n');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    return answer.toString().startsWith('+PONG');
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findRedisServer, startLocalRedis, type LocalRedis } from './local-redis.ts';
import { freePort } from './ports.ts';
import { commandLine } from './processes.ts';

const folders: string[] = [];
const pids: number[] = [];

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-local-'));
  folders.push(folder);
  return folder;
}

async function redisServer(): Promise<string> {
  const binary = await findRedisServer();
  if (binary === undefined) throw new Error('There is no redis-server on this machine: "npm test" installs one.');
  return binary;
}

async function start(options: { dataDir: string; port?: number; persistent?: boolean }): Promise<LocalRedis> {
  const redis = await startLocalRedis({ binary: await redisServer(), persistent: false, ...options });
  pids.push(redis.pid);
  return redis;
}

/** Sends one command in Redis's inline form and returns the raw answer. */
async function send({ port }: LocalRedis, command: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.write(`${command}\r\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  return answer.toString();
}

async function startAndKillStarter(dataDir: string): Promise<number> {
  const door = join(import.meta.dirname, '../dist/index.js');
  const options = JSON.stringify({ binary: await redisServer(), dataDir, persistent: true });
  const script = `
    const { startLocalRedis } = await import(${JSON.stringify(door)});
    console.log((await startLocalRedis(${options})).pid);
    setInterval(() => {}, 1000);`;
  const starter = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [pid] = (await once(starter.stdout, 'data')) as [Buffer];
  starter.kill('SIGKILL');
  await once(starter, 'exit');
  pids.push(Number(pid));
  return Number(pid);
}

afterAll(async () => {
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
  for (const pid of pids) expect([pid, await commandLine(pid)]).toEqual([pid, undefined]);
});

describe('startLocalRedis', () => {
  it('evicts nothing and, when persistent, gives a second start the keys of the first', async () => {
    const dataDir = await temporaryFolder();
    const first = await start({ dataDir, persistent: true });
    expect(await send(first, 'CONFIG GET maxmemory-policy')).toContain('noeviction');
    await send(first, 'SET note kept');
    await first.stop();
    await first.stop();
    expect(await commandLine(first.pid)).toBeUndefined();

    const second = await start({ dataDir, persistent: true });
    expect(await send(second, 'GET note')).toContain('kept');
    await second.stop();
  });

  it('forgets everything when it is not persistent', async () => {
    const dataDir = await temporaryFolder();
    const first = await start({ dataDir });
    await send(first, 'SET note kept');
    await first.stop();
    const second = await start({ dataDir });
    expect(await send(second, 'GET note')).toBe('$-1\r\n');
    await second.stop();
  });

  it('takes the wanted port when it is free, and another when it is taken', async () => {
    const dataDir = await temporaryFolder();
    const port = await freePort();
    const first = await start({ dataDir, port });
    await first.stop();
    const other = createServer().listen(port, '127.0.0.1');
    await once(other, 'listening');
    const second = await start({ dataDir, port });
    other.close();
    expect(first.port).toBe(port);
    expect(second.port).not.toBe(port);
    await second.stop();
  });

  it('replaces the server that a killed start left running, and refuses one in use', async () => {
    const dataDir = await temporaryFolder();
    const leftover = await startAndKillStarter(dataDir);
    expect(await commandLine(leftover)).toContain(dataDir);
    const redis = await start({ dataDir, persistent: true });
    expect(redis.alreadyRunning).toBe(true);
    expect(await commandLine(leftover)).toBeUndefined();
    await expect(start({ dataDir })).rejects.toThrow(`is in use by process ${process.pid}`);
    await redis.stop();
  });
});

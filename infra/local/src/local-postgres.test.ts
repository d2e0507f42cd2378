import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createPool, type Pool } from '@outbox/core';
import { startLocalPostgres, type LocalPostgres, type LocalPostgresOptions } from './local-postgres.ts';
import { freePort } from './ports.ts';
import { commandLine } from './processes.ts';

const isRoot = process.getuid?.() === 0;
const asRootIt = isRoot ? it : it.skip;

/** A start, an initdb before it and a shutdown, on a machine that has other things to do. */
const SLOW_MS = 60_000;

const folders: string[] = [];
const pids: number[] = [];

async function temporaryFolder(mode: number): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'outbox-local-'));
  await chmod(folder, mode);
  folders.push(folder);
  return folder;
}

async function start(options: LocalPostgresOptions): Promise<LocalPostgres> {
  const server = await startLocalPostgres({ settings: { fsync: 'off' }, ...options });
  pids.push(server.pid);
  folders.push(server.dataDir);
  return server;
}

async function withPool<T>(server: LocalPostgres, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = createPool({ url: server.url, applicationName: 'test', max: 1, onError: () => undefined });
  try {
    return await work(pool);
  } finally {
    await pool.end();
  }
}

/** Leaves a trace that a later start can find. */
function leaveNote(server: LocalPostgres): Promise<unknown> {
  return withPool(server, (pool) => pool.query(`create table note as select 'kept' as word`));
}

async function readNote(server: LocalPostgres): Promise<unknown> {
  const { rows } = await withPool(server, (pool) => pool.query<{ word: string }>('select word from note limit 1'));
  return rows[0]?.word;
}

/** Starts a server from another process, kills that process, and returns the pid of the server left behind. */
async function startAndKillStarter(dataDir: string): Promise<number> {
  const door = join(import.meta.dirname, '../dist/index.js');
  const script = `
    const { startLocalPostgres } = await import(${JSON.stringify(door)});
    const { pid } = await startLocalPostgres({ dataDir: ${JSON.stringify(dataDir)} });
    console.log(pid);
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

describe('startLocalPostgres', () => {
  it(
    'gives a second start the rows of the first, and leaves no process behind',
    async () => {
      const dataDir = join(await temporaryFolder(0o755), 'postgres');
      const first = await start({ dataDir });
      await leaveNote(first);
      await first.stop();
      await first.stop();
      expect(await commandLine(first.pid)).toBeUndefined();

      const second = await start({ dataDir });
      expect(await readNote(second)).toBe('kept');
      expect([first.alreadyRunning, second.alreadyRunning]).toEqual([false, false]);
      await second.stop();
    },
    SLOW_MS,
  );

  it(
    'asks everybody for the password, sorts by bytes, and applies the settings',
    async () => {
      const server = await start({
        dataDir: join(await temporaryFolder(0o755), 'postgres'),
        settings: { work_mem: '5MB' },
      });
      const { rows } = await withPool(server, (pool) =>
        pool.query(`select current_user::text as login, current_database()::text as database, datcollate as collation,
        pg_encoding_to_char(encoding) as encoding, current_setting('work_mem') as work_mem
        from pg_database where datname = current_database()`),
      );
      expect(rows).toEqual([
        { login: 'outbox', database: 'outbox', collation: 'C', encoding: 'UTF8', work_mem: '5MB' },
      ]);
      const url = server.url.replace(/:[0-9a-f]{48}@/, ':guessed@');
      await expect(withPool({ ...server, url }, (pool) => pool.query('select 1'))).rejects.toMatchObject({
        code: '28P01',
      });
      expect((await stat(join(server.dataDir, 'password'))).mode & 0o777).toBe(0o600);
      await server.stop();
    },
    SLOW_MS,
  );

  it(
    'takes the wanted port when it is free, and another when it is taken',
    async () => {
      const dataDir = join(await temporaryFolder(0o755), 'postgres');
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
    },
    SLOW_MS,
  );

  it(
    'replaces the server that a killed start left running',
    async () => {
      const dataDir = join(await temporaryFolder(0o755), 'postgres');
      const leftover = await startAndKillStarter(dataDir);
      expect(await commandLine(leftover)).toContain('postgres');
      const server = await start({ dataDir });
      expect(server.alreadyRunning).toBe(true);
      expect(await commandLine(leftover)).toBeUndefined();
      await server.stop();
    },
    SLOW_MS,
  );

  it(
    'starts after a crash whose process number another process has now',
    async () => {
      const dataDir = join(await temporaryFolder(0o755), 'postgres');
      const first = await start({ dataDir });
      await leaveNote(first);
      process.kill(first.pid, 'SIGKILL');
      await first.stop();
      const bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
      await writeFile(join(first.dataDir, 'cluster/postmaster.pid'), `${bystander.pid}\n${dataDir}/cluster\n0\n5432\n`);

      const second = await start({ dataDir });
      expect(await readNote(second)).toBe('kept');
      expect(bystander.exitCode).toBeNull();
      await second.stop();
      bystander.kill();
    },
    SLOW_MS,
  );

  it(
    'refuses data that a running process uses',
    async () => {
      const dataDir = join(await temporaryFolder(0o755), 'postgres');
      const server = await start({ dataDir });
      await expect(start({ dataDir })).rejects.toThrow(`is in use by process ${process.pid}`);
      expect(await commandLine(server.pid)).toContain('postgres');
      await server.stop();
    },
    SLOW_MS,
  );

  asRootIt(
    'serves root from a folder only root can enter (runs as root only)',
    async () => {
      const dataDir = join(await temporaryFolder(0o700), 'postgres');
      const first = await start({ dataDir });
      await leaveNote(first);
      await first.stop();
      const second = await start({ dataDir });
      expect(await readNote(second)).toBe('kept');
      expect(second.dataDir).toMatch(/^\/var\/lib\/outbox-bridge\/[0-9a-f]{16}$/);
      expect((await stat(join(second.dataDir, 'cluster'))).uid).not.toBe(0);
      await second.stop();
    },
    SLOW_MS,
  );
});

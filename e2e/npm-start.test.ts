import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { waitFor } from '@outbox/testing';

const STARTER = join(import.meta.dirname, '../demo/start.mjs');
const STORY_WITHIN_MS = 60_000;

let home: string;
let starter: ChildProcess | undefined;
let taken: Server | undefined;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'outbox-start-'));
});

afterEach(() => {
  starter?.kill('SIGKILL');
  taken?.close();
});

afterAll(() => rm(home, { recursive: true, force: true }));

interface Start {
  text: () => string;
  stop: () => Promise<number | null>;
}

function npmStart(env: Record<string, string>): Start {
  const child = spawn(process.execPath, [STARTER], {
    env: { PATH: process.env.PATH, HOME: process.env.HOME, OUTBOX_HOME: home, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  starter = child;
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return {
    text: () => text,
    stop: async () => {
      const exited = once(child, 'exit') as Promise<[number | null]>;
      child.kill('SIGINT');
      return (await exited)[0];
    },
  };
}

const untilTheEnd = (start: Start) =>
  waitFor(() => expect(start.text()).toContain('The end:'), { timeoutMs: STORY_WITHIN_MS, intervalMs: 100 });

const THE_END =
  /The end: texted Ada \(\+15555550101\), Ben \(\+15555550102\), Chloe \(\+15555550103\); the auto sync is paused\./;

/** Processes whose command line or environment folder names the demonstration's home. */
function leftBehind(): string[] {
  return execFileSync('ps', ['-eo', 'pid,args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(home));
}

it('npm start tells the story to its end with Redis, and Ctrl-C leaves no process behind', async () => {
  const start = npmStart({});
  await untilTheEnd(start);
  expect(start.text()).toMatch(THE_END);
  expect(start.text()).toMatch(/Starting a private Redis/);
  expect(await start.stop()).toBe(0);
  expect(leftBehind()).toEqual([]);
}, 90_000);

it("a second start finds the first one's data, runs without Redis, and takes other ports aloud", async () => {
  taken = createServer().listen(4000);
  const start = npmStart({ QUEUE_BACKEND: 'postgres' });
  await untilTheEnd(start);
  expect(start.text()).toMatch(THE_END);
  expect(start.text()).toMatch(/BullMQ runs on its PostgreSQL backend/);
  expect(start.text()).toMatch(/Port 4000 is taken: the API uses \d+/);
  const psql = /postgres:\/\/[^"]+/.exec(start.text())?.[0] ?? '';
  const { createPool } = await import('@outbox/core');
  const pool = createPool({ url: psql, applicationName: 'test', max: 1, onError: () => undefined });
  const { rows } = await pool.query('select event_name, status::text from auto_syncs order by created_at');
  await pool.end();
  expect(rows).toEqual([
    { event_name: 'Friday climbing', status: 'paused' },
    { event_name: 'Friday climbing', status: 'paused' },
  ]);
  expect(await start.stop()).toBe(0);
  expect(leftBehind()).toEqual([]);
}, 90_000);

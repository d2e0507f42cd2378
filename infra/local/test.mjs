/**
 * `npm test`: brings this machine to where the tests can run, and runs them. Arguments go to Jest. Needs nothing but
 * Node and npm; everything it lacks it installs, a Redis with the system's package manager. The last line says
 * `N passed, N failed`, and the exit code is Jest's.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isInstalled } from './is-installed.mjs';

const root = join(import.meta.dirname, '../..');

installDependencies();
build();
await provideRedis();
process.exitCode = await runJest(process.argv.slice(2));

function installDependencies() {
  if (isInstalled()) return;
  step('Installing dependencies (npm ci)');
  const npm = process.env.npm_execpath;
  const done = npm ? run(process.execPath, [npm, 'ci']) : run('npm', ['ci']);
  if (!done) fail('npm ci failed.');
}

function build() {
  step('Building');
  if (!run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b', 'tsconfig.build.json'])) {
    fail('The build failed: see the errors above.');
  }
}

async function provideRedis() {
  if (process.env.REDIS_URL) return step('Using the Redis that REDIS_URL names');
  const { findRedisServer } = await import('./dist/index.js');
  const found = await findRedisServer();
  if (found) return step(`Using ${found}`);
  installRedis();
  if (!(await findRedisServer())) {
    fail(
      'The tests need a real Redis (or Valkey) 6.2 or newer, and it could not be installed here.\n' +
        'Install the package redis-server, redis or valkey, or set REDIS_URL=redis://host:6379, and run npm test again.',
    );
  }
}

/** Tries the package managers this machine has, and of each the packages that may hold a Redis. */
function installRedis() {
  const aptGet = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get'];
  const managers = {
    'apt-get': [
      [...aptGet, 'update', '-q'],
      [...aptGet, 'install', '-q', '-y', '--no-install-recommends', 'redis-server'],
    ],
    apk: [['apk', 'add', '--no-cache', 'redis']],
    dnf: [['sh', '-c', 'dnf install -y redis || dnf install -y valkey']],
    pacman: [['pacman', '-Sy', '--noconfirm', '--needed', 'valkey']],
    brew: [['brew', 'install', 'redis']],
  };
  for (const [manager, commands] of Object.entries(managers)) {
    if (spawnSync('sh', ['-c', `command -v ${manager}`]).status !== 0) continue;
    step(`Installing Redis with ${manager}`);
    // Homebrew refuses root; the others need it. -n: fail rather than ask for a password.
    const asRoot = manager === 'brew' || process.getuid?.() === 0 ? [] : ['sudo', '-n'];
    const done = commands.map((command) => run(...split([...asRoot, ...command])));
    if (done.at(-1)) return;
  }
}

function split([command, ...args]) {
  return [command, args];
}

/** Resolves with Jest's exit code. */
async function runJest(args) {
  step('Running the tests');
  const folder = mkdtempSync(join(tmpdir(), 'outbox-counts-'));
  const countsFile = join(folder, 'counts.json');
  // Ctrl-C reaches Jest too, which stops its servers first; we wait for it.
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => undefined);
  const jest = spawn(process.execPath, [join(root, 'node_modules/jest/bin/jest.js'), ...args], {
    cwd: root,
    env: { ...process.env, OUTBOX_TEST_COUNTS: countsFile },
    stdio: 'inherit',
  });
  const code = await new Promise((resolve) => jest.once('close', (exit) => resolve(exit ?? 1)));
  printCounts(countsFile, code);
  rmSync(folder, { recursive: true, force: true });
  return code;
}

function printCounts(file, code) {
  if (existsSync(file)) {
    const { passed, failed } = JSON.parse(readFileSync(file, 'utf8'));
    console.log(`${passed} passed, ${failed} failed`);
  } else if (code !== 0) {
    // Jest ended before it could count.
    console.log('0 passed, 1 failed');
  }
}

function run(command, args) {
  return spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0;
}

function step(text) {
  console.log(`› ${text}`);
}

function fail(text) {
  console.error(text);
  process.exit(1);
}

import { spawnSync } from 'node:child_process';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { fail, run, step } from './steps.mjs';

/** Finds a Redis for tests, or installs one with the system's package manager; ends the process when there is none to be had. */
export async function provideRedis() {
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

if (argv[1] === fileURLToPath(import.meta.url)) await provideRedis();

/**
 * `npm test`: brings this machine to where the tests can run, and runs them. Arguments go to Jest. Needs nothing but
 * Node and npm; everything it lacks it installs, a Redis with the system's package manager. The last line says
 * `N passed, N failed`, and the exit code is Jest's.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isInstalled } from './is-installed.mjs';
import { provideRedis } from './provide-redis.mjs';
import { fail, root, run, step } from './steps.mjs';

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

/**
 * `npm start`: brings a machine that has Node and npm to where the whole product runs, and runs it. This file needs
 * nothing installed; everything after the build is in src/start.ts.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { isInstalled } from '../infra/local/is-installed.mjs';

const root = join(import.meta.dirname, '..');
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Outbox Bridge needs Node 20.19 or newer; this is ${process.versions.node}.`);
  process.exit(1);
}

if (!isInstalled()) {
  const npm = process.env.npm_execpath ? [process.execPath, process.env.npm_execpath] : ['npm'];
  await step('Installing packages', [...npm, 'ci', '--no-audit', '--no-fund', '--loglevel=error']);
}
await step('Building', [process.execPath, 'node_modules/typescript/bin/tsc', '-b', 'tsconfig.build.json']);
const { start } = await import('./dist/start.js');
await start();

/** Runs a command, showing how long it has taken; its output only when it fails. */
async function step(title, [command, ...args]) {
  const started = Date.now();
  const seconds = () => `${((Date.now() - started) / 1000).toFixed(0)} s`;
  const line = (text) => (process.stdout.isTTY ? process.stdout.write(`\r  ${text}\x1b[K`) : undefined);
  const ticker = setInterval(() => line(`${title} … ${seconds()}`), 250);
  line(`${title} …`);
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  child.stderr.on('data', (chunk) => (output += chunk));
  const code = await new Promise((resolve) => {
    child.on('error', (error) => resolve(((output += error.message), 1)));
    child.on('close', resolve);
  });
  clearInterval(ticker);
  if (process.stdout.isTTY) process.stdout.write('\r\x1b[K');
  if (code === 0) return console.log(`  ✓ ${title} (${seconds()})`);
  console.error(`  ✗ ${title} failed:\n${output}`);
  process.exit(1);
}

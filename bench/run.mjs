/**
 * `npm run bench -- <case>`: installs what the benchmarks compare us with (bench/package.json; no part of the product, so
 * no workspace), builds, and runs the case.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const bench = import.meta.dirname;
const root = join(bench, '..');

const { dependencies } = JSON.parse(readFileSync(join(bench, 'package.json'), 'utf8'));
if (Object.keys(dependencies).some((name) => !existsSync(join(bench, 'node_modules', name)))) {
  const npm = process.env.npm_execpath ? [process.execPath, process.env.npm_execpath] : ['npm'];
  run([...npm, 'ci'], bench);
}
run([process.execPath, 'node_modules/typescript/bin/tsc', '-b', 'tsconfig.build.json', 'bench'], root);
await import('./dist/main.js');

function run([command, ...args], cwd) {
  const { status } = spawnSync(command, args, { cwd, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

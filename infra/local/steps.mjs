import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

/** What the scripts of this folder do: commands in the repository, with a line before each. */
export const root = join(import.meta.dirname, '../..');

/** True when the command ended well. Its output is shown. */
export function run(command, args) {
  return spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0;
}

export function step(text) {
  console.log(`› ${text}`);
}

export function fail(text) {
  console.error(text);
  process.exit(1);
}

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

/**
 * True when node_modules holds what the lock file asks for. npm notes in node_modules what it has installed; optional
 * packages may be missing, they are for other machines. Needs nothing installed.
 */
export function isInstalled() {
  const noteFile = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(noteFile)) return false;
  const wanted = readPackages(join(root, 'package-lock.json'));
  const installed = readPackages(noteFile);
  return Object.entries(wanted).every(([path, { version, resolved, optional, devOptional }]) => {
    if (!path.includes('node_modules/')) return true;
    const found = installed[path];
    return found ? found.version === version && found.resolved === resolved : Boolean(optional || devOptional);
  });
}

function readPackages(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages;
}

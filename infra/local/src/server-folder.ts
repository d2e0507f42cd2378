import { createHash } from 'node:crypto';
import { chmod, lstat, mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { mayEnter, type ServerUser } from './postgres-user.ts';

/** Where root keeps what an unprivileged server must reach. Only root can create it, so nobody can plant it. */
const ROOTS_FOLDER = '/var/lib/outbox-bridge';

/**
 * Creates the folder a server keeps its things in and returns its path: `wanted`, or, when `user` cannot get there, one
 * below /var/lib/outbox-bridge that belongs to `wanted` alone and is found again by the next start.
 */
export async function serverFolder(wanted: string, user: ServerUser): Promise<string> {
  const folder = resolve(wanted);
  const reachable = user.uid === undefined || (await mayEnter(user, await existingAncestor(folder)));
  const actual = reachable ? folder : join(await rootsFolder(), hashOf(folder));
  await createOpen(actual);
  return actual;
}

/** Throws when the folder is not root's alone. */
export async function rootsFolder(): Promise<string> {
  await createOpen(ROOTS_FOLDER);
  const found = await lstat(ROOTS_FOLDER);
  if (!found.isDirectory() || found.uid !== 0 || (found.mode & 0o022) !== 0) {
    throw new Error(`${ROOTS_FOLDER} must be a folder that only root can write to. Remove it, or set DATABASE_URL.`);
  }
  return ROOTS_FOLDER;
}

function hashOf(path: string): string {
  return createHash('sha256').update(path).digest('hex').slice(0, 16);
}

async function existingAncestor(path: string): Promise<string> {
  const exists = await lstat(path).then(
    () => true,
    () => false,
  );
  return exists ? path : existingAncestor(dirname(path));
}

/** Creates what is missing of the path, open to others whatever the umask is. Leaves existing folders as they are. */
async function createOpen(folder: string): Promise<void> {
  const first = await mkdir(folder, { recursive: true });
  if (first === undefined) return;
  for (let made = folder; made.length >= first.length; made = dirname(made)) await chmod(made, 0o755);
}

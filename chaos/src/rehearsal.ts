import type { Options } from './options.ts';
import type { Schedule } from './schedule.ts';

/** Prints what the run would do, one line each, in order of time. */
export function rehearse({ seed }: Options, { business, faults }: Schedule): number {
  const lines = [
    ...faults.map(({ id, kind, atMs, forMs, how }) => ({
      atMs,
      text: `fault ${id}: ${kind}${forMs > 0 ? ` for ${forMs} ms` : ''} ${JSON.stringify(how)}`,
    })),
    ...business.actions.map(({ atMs, ...action }) => ({ atMs, text: JSON.stringify(action) })),
  ].sort((a, b) => a.atMs - b.atMs);
  process.stdout.write(
    `seed ${seed}: ${business.syncs.length} auto syncs, ${business.actions.length} actions, ${faults.length} faults\n`,
  );
  for (const { atMs, text } of lines) process.stdout.write(`${(atMs / 1_000).toFixed(3).padStart(9)} s  ${text}\n`);
  return 0;
}

import { parseArgs } from 'node:util';
import { ConfigError, MINUTE, SECOND } from '@outbox/core';

export interface Options {
  seed: number;
  /** How long business and faults go on; the quiet end comes after that. Milliseconds. */
  durationMs: number;
  /** Auto syncs a second, on average. */
  rate: number;
  /** Kinds of faults; undefined means all, empty none. */
  faults: string[] | undefined;
  /** Print what would be done, and do nothing. */
  dryRun: boolean;
  /** Keep the history of a run in which every invariant held, too. */
  keep: boolean;
  /** Where the report goes besides the screen: Markdown, or JSON when it ends so. */
  report: string | undefined;
  /** How long the outbox may take to become quiet. Milliseconds. */
  drainMs: number;
}

export const USAGE = `npm run chaos -- [options]

  --seed N          repeats the run with this seed; by default another one each time
  --minutes M       how long business and faults go on (default 10)
  --seconds S       the same in seconds
  --rate R          auto syncs a second (default 40)
  --faults a,b      only these kinds of faults; "none" for business alone
  --drain S         seconds the outbox may take to become quiet afterwards (default 180)
  --report FILE     also write the report to FILE, as Markdown, or as JSON when it ends in .json
  --keep            keep the history even when all is well
  --dry-run         print the faults and the actions of this seed and do nothing`;

const MOST_SEED = 0x7fff_ffff;

/** Throws `ConfigError` on an argument that cannot be followed. */
export function parseOptions(argv: string[]): Options | 'help' {
  const { values } = readArguments(argv);
  if (values.help) return 'help';
  const seconds = values.seconds === undefined ? undefined : wholeNumber('seconds', values.seconds, 5, 24 * 3_600);
  const minutes = wholeNumber('minutes', values.minutes ?? '10', 1, 24 * 60);
  return {
    seed:
      values.seed === undefined
        ? Math.floor(Math.random() * MOST_SEED)
        : wholeNumber('seed', values.seed, 0, MOST_SEED),
    durationMs: seconds === undefined ? minutes * MINUTE : seconds * SECOND,
    rate: wholeNumber('rate', values.rate ?? '40', 1, 1_000),
    faults: values.faults === undefined ? undefined : values.faults.split(',').filter((kind) => kind !== 'none'),
    dryRun: values['dry-run'] ?? false,
    keep: values.keep ?? false,
    report: values.report,
    drainMs: wholeNumber('drain', values.drain ?? '180', 1, 3_600) * SECOND,
  };
}

function readArguments(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      options: {
        seed: { type: 'string' },
        minutes: { type: 'string' },
        seconds: { type: 'string' },
        rate: { type: 'string' },
        faults: { type: 'string' },
        drain: { type: 'string' },
        report: { type: 'string' },
        keep: { type: 'boolean' },
        'dry-run': { type: 'boolean' },
        help: { type: 'boolean' },
      },
    });
  } catch (error) {
    throw new ConfigError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
}

function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new ConfigError(`--${name} must be a whole number from ${min} to ${max}`);
}

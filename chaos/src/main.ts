import { ConfigError, UnavailableError } from '@outbox/core';
import { parseOptions, USAGE, type Options } from './options.ts';
import { rehearse } from './rehearsal.ts';
import { run } from './run.ts';
import { planRun } from './schedule.ts';

/** Exit code 1: an invariant is broken, or the run was not to be had. 130: stopped by Ctrl-C. */
async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options === 'help') {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  return start(options);
}

async function start(options: Options): Promise<number> {
  const schedule = planRun(options);
  return options.dryRun ? rehearse(options, schedule) : run(options, schedule);
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    const mendable = error instanceof ConfigError || error instanceof UnavailableError;
    const text = error instanceof Error ? (mendable ? error.message : error.stack) : String(error);
    process.stderr.write(`chaos: ${text}\n`);
    process.exit(1);
  },
);

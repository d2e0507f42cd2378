import { Command, CommanderError } from 'commander';
import { addDoctorCommand } from './doctor.ts';
import { addEffectCommands } from './effect-commands.ts';
import { addJobCommands } from './job-commands.ts';
import { addQueueCommands } from './queue-commands.ts';
import { explain, type Environment } from './session.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/**
 * Runs one command and gives the exit code: 0 done, 1 not done (one line on standard error says why and what to do),
 * 2 the command line is wrong.
 */
export async function run(args: string[], env: Environment): Promise<number> {
  try {
    await createProgram(env).parseAsync(args, { from: 'user' });
    return process.exitCode === undefined ? 0 : Number(process.exitCode);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE; // commander has said it
    const line = explain(error).replaceAll(/\s*\n\s*/g, ' ');
    process.stderr.write(`outbox: ${line}\n`);
    return EXIT_FAILED;
  }
}

function createProgram(env: Environment): Command {
  const program = new Command('outbox')
    .description('Looks at the jobs of this installation and acts on them. Settings come from the environment.')
    .exitOverride()
    .showHelpAfterError('See "outbox --help".');
  addJobCommands(program, env);
  addEffectCommands(program, env);
  addQueueCommands(program, env);
  addDoctorCommand(program, env);
  return program;
}

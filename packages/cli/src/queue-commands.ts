import { pauseQueue, resumeQueue } from '@outbox/core';
import type { Command } from 'commander';
import { printResult } from './output.ts';
import { resumeAfterRestore } from './restore.ts';
import { withSession, type Environment } from './session.ts';

interface ResumeOptions {
  queue?: string;
  afterRestore?: boolean;
  yes?: boolean;
  json?: boolean;
}

/** `pause`, and `resume` of a queue or of a restored database. */
export function addQueueCommands(program: Command, env: Environment): void {
  program
    .command('pause')
    .description('lets a queue start no more jobs; running ones go on')
    .requiredOption('--queue <name>', 'which queue')
    .option('--reason <reason>', 'shown to whoever asks')
    .option('--json', 'print JSON')
    .action(({ queue, reason, json }: { queue: string; reason?: string; json?: boolean }) =>
      withSession(env, async ({ pool, actor }) => {
        const changed = await pauseQueue(pool, actor, queue, reason);
        printResult({ queue, changed }, `Queue ${queue} ${changed ? 'is paused' : 'was paused already'}.`, json);
      }),
    );

  const resume = program
    .command('resume')
    .description('lets a queue start jobs again, or work go on after the database was restored')
    .option('--queue <name>', 'which queue')
    .option('--after-restore', 'the database was restored to an older state, or lost its newest transactions')
    .option('--yes', 'with --after-restore: do it')
    .option('--json', 'print JSON');
  resume.action(({ queue, afterRestore = false, yes = false, json }: ResumeOptions) => {
    if ((queue === undefined) !== afterRestore) resume.error('error: say either --queue <name> or --after-restore');
    return withSession(env, async (session) => {
      if (queue === undefined) return resumeAfterRestore(session, { yes, json });
      const changed = await resumeQueue(session.pool, session.actor, queue);
      printResult({ queue, changed }, `Queue ${queue} ${changed ? 'goes on' : 'was not paused'}.`, json);
    });
  });
}

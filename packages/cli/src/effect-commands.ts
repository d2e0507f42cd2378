import { maskPhones, resolveEffect, type Queryable } from '@outbox/core';
import { type Command, InvalidArgumentError, Option, Argument } from 'commander';
import { printRecords, printResult } from './output.ts';
import { withSession, type Environment } from './session.ts';

const STATES = ['started', 'confirmed', 'rejected', 'unknown'];

/** `effects`, `resolve`. */
export function addEffectCommands(program: Command, env: Environment): void {
  program
    .command('effects')
    .description('lists calls that must not happen twice, the newest first')
    .addOption(new Option('--state <state>', 'only in this state').choices(STATES).default('unknown'))
    .option('--json', 'print JSON')
    .action(({ state, json }: { state: string; json?: boolean }) =>
      withSession(env, async ({ pool }) =>
        printRecords(await listEffects(pool, state), COLUMNS, { json, none: `No effect is ${state}.` }),
      ),
    );

  program
    .command('resolve')
    .description('says what became of an unknown effect: confirmed, it did happen; rejected, it did not and shall not')
    .argument('<id>', 'the number of the effect', parseEffectId)
    .addArgument(new Argument('<outcome>').choices(['confirmed', 'rejected']))
    .requiredOption('--note <note>', 'how you know')
    .option('--json', 'print JSON')
    .action((id: string, outcome: 'confirmed' | 'rejected', { note, json }: { note: string; json?: boolean }) =>
      withSession(env, async ({ pool, actor }) => {
        const enqueued = await resolveEffect(pool, actor, id, { outcome, note });
        const next = enqueued === undefined ? '' : ` Job ${enqueued} acts on it.`;
        printResult({ id, state: outcome, job: enqueued ?? null }, `Effect ${id} is ${outcome}.${next}`, json);
      }),
    );
}

function parseEffectId(text: string): string {
  if (/^\d{1,18}$/.test(text)) return text;
  throw new InvalidArgumentError('It must be the number of an effect; "outbox effects" lists them.');
}

interface ListedEffect {
  id: string;
  key: string;
  jobId: string;
  provider: string;
  state: string;
  startedAt: Date;
  why: string | null;
}

const COLUMNS: Record<keyof ListedEffect, string> = {
  id: 'ID',
  key: 'KEY',
  jobId: 'JOB',
  provider: 'PROVIDER',
  state: 'STATE',
  startedAt: 'STARTED',
  why: 'WHY',
};

const LIST_EFFECTS = /* sql */ `
  select
    e.id, e.key, e.job_id as "jobId", e.provider, e.state, e.started_at as "startedAt", coalesce(e.note, e.reason) as why
  from outbox.effects e
  where e.state = $1
  order by e.id desc
  limit 1000`;

async function listEffects(db: Queryable, state: string): Promise<ListedEffect[]> {
  const { rows } = await db.query<ListedEffect & Record<string, unknown>>(LIST_EFFECTS, [state]);
  return rows.map((row) => ({ ...row, why: maskPhones(row.why) }));
}

import { actOnJob, envDuration, maskPhones, resolveJobId, DAY, type JobAction, type Queryable } from '@outbox/core';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { printRecords, printResult } from './output.ts';
import { withSession, type Environment, type Session } from './session.ts';

const STATES = ['pending', 'published', 'active', 'completed', 'skipped', 'failed', 'cancelled'];

/** `jobs`, `cancel`, `retry`, `reschedule`, `run-now`. */
export function addJobCommands(program: Command, env: Environment): void {
  program
    .command('jobs')
    .description('lists jobs, the newest first')
    .addOption(new Option('--state <state>', 'only in this state').choices(STATES))
    .option('--name <name>', 'only of this name, such as reminder_24h')
    .option('--key <key>', 'only with this business key')
    .option('--limit <count>', 'at most so many, 1 to 1000', parseLimit, 50)
    .option('--json', 'print JSON')
    .action((options: JobFilter & { json?: boolean }) =>
      withSession(env, async ({ pool }) =>
        printRecords(await listJobs(pool, options), JOB_COLUMNS, { json: options.json, none: 'No such job.' }),
      ),
    );

  const act = (command: Command, toAction: (argument: string, db: Queryable) => Promise<JobAction>) =>
    command.option('--json', 'print JSON').action(async (id: JobId, ...rest: unknown[]) => {
      const { json } = command.opts<{ json?: boolean }>();
      const argument = typeof rest[0] === 'string' ? rest[0] : '';
      await withSession(env, (session) => actAndTell(session, id, (db) => toAction(argument, db), json));
    });

  const cancel = jobCommand(program, 'cancel <id>', 'cancels an open job; a running one is asked to end').option(
    '--reason <reason>',
    'kept with the job',
    'cancelled',
  );
  act(cancel, () => Promise.resolve({ kind: 'cancel', reason: cancel.opts<{ reason: string }>().reason }));
  act(jobCommand(program, 'retry <id>', 'gives a failed job all its attempts again'), () =>
    Promise.resolve({ kind: 'retry' }),
  );
  act(jobCommand(program, 'run-now <id>', 'makes an open job due at once'), () => Promise.resolve({ kind: 'run-now' }));
  const reschedule = jobCommand(program, 'reschedule <id>', 'gives an open job another instant').argument(
    '<when>',
    'such as 2030-01-31T09:00:00Z, or +2h from now',
    checkWhen,
  );
  act(reschedule, async (when, db) => ({ kind: 'reschedule', scheduledAt: await toInstant(db, when) }));
}

function jobCommand(program: Command, usage: string, description: string): Command {
  const [name = ''] = usage.split(' ');
  return program
    .command(name)
    .description(description)
    .argument('<id>', 'the number of the job, or its uuid', parseJobId);
}

type JobId = { number: string } | { uuid: string };

function parseJobId(text: string): JobId {
  if (/^\d{1,18}$/.test(text)) return { number: text };
  if (z.guid().safeParse(text).success) return { uuid: text };
  throw new InvalidArgumentError('It must be the number of a job, or its uuid.');
}

function parseLimit(text: string): number {
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (limit < 1 || limit > 1000) throw new InvalidArgumentError('It must be a whole number from 1 to 1000.');
  return limit;
}

const instant = z.iso.datetime({ offset: true });
const fromNow = z
  .string()
  .startsWith('+')
  .transform((text) => text.slice(1))
  .pipe(envDuration(0, 3650 * DAY));

function checkWhen(text: string): string {
  if (instant.safeParse(text).success || fromNow.safeParse(text).success) return text;
  throw new InvalidArgumentError(
    'It must be an instant with its offset, such as 2030-01-31T09:00:00Z, or +2h from now.',
  );
}

/** "From now" is by the clock of the database, which alone says what is due. */
async function toInstant(db: Queryable, when: string): Promise<Date> {
  if (!when.startsWith('+')) return new Date(when);
  const { rows } = await db.query<{ now: Date }>('select clock_timestamp() as now');
  return new Date((rows[0]?.now.getTime() ?? Number.NaN) + fromNow.parse(when));
}

async function actAndTell(
  { pool, actor }: Session,
  jobId: JobId,
  toAction: (db: Queryable) => Promise<JobAction>,
  json: boolean | undefined,
): Promise<void> {
  const id = 'number' in jobId ? jobId.number : await resolveJobId(pool, jobId.uuid);
  if (id === undefined) throw new Error('There is no job with this uuid.');
  await actOnJob(pool, actor, id, await toAction(pool));
  const { rows } = await pool.query<JobState & Record<string, unknown>>(READ_JOB, [id]);
  const job = rows[0];
  printResult({ ...job }, job ? tellJob(job) : `Job ${id} is gone.`, json);
}

interface JobState {
  id: string;
  name: string;
  state: string;
  scheduledAt: Date;
  cancelRequestedAt: Date | null;
}

function tellJob({ id, name, state, scheduledAt, cancelRequestedAt }: JobState): string {
  if (state === 'cancelled') return `${name} ${id} is cancelled.`;
  if (cancelRequestedAt) return `${name} ${id} is ${state} and will end as cancelled.`;
  return `${name} ${id} is ${state}, due ${scheduledAt.toISOString()}.`;
}

const READ_JOB = /* sql */ `
  select
    j.id, j.name, j.key, j.state, j.attempt, j.generation, j.scheduled_at as "scheduledAt",
    j.cancel_requested_at as "cancelRequestedAt"
  from outbox.jobs j
  where j.id = $1
  limit 1`;

interface JobFilter {
  state?: string;
  name?: string;
  key?: string;
  limit: number;
}

interface ListedJob {
  id: string;
  name: string;
  key: string | null;
  state: string;
  attempts: string;
  scheduledAt: Date;
  finishedAt: Date | null;
  why: string | null;
}

const JOB_COLUMNS: Record<keyof ListedJob, string> = {
  id: 'ID',
  name: 'NAME',
  key: 'KEY',
  state: 'STATE',
  attempts: 'ATTEMPTS',
  scheduledAt: 'DUE',
  finishedAt: 'FINISHED',
  why: 'WHY',
};

const LIST_JOBS = /* sql */ `
  select
    j.id, j.name, j.key, j.state, j.attempt || '/' || j.max_attempts as attempts, j.scheduled_at as "scheduledAt",
    j.finished_at as "finishedAt", coalesce(j.reason, j.last_error) as why
  from outbox.jobs j
  where ($1::text is null or j.state = $1)
    and ($2::text is null or j.name = $2)
    and ($3::text is null or j.key = $3)
  order by j.id desc
  limit $4`;

async function listJobs(db: Queryable, { state, name, key, limit }: JobFilter): Promise<ListedJob[]> {
  const values = [state ?? null, name ?? null, key ?? null, limit];
  const { rows } = await db.query<ListedJob & Record<string, unknown>>(LIST_JOBS, values);
  return rows.map((row) => ({ ...row, why: maskPhones(row.why) }));
}

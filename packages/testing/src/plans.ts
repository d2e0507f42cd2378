import { createPool, type Pool } from '@outbox/core';
import { atFullSize } from './full-size.ts';
import type { TestDatabase } from './with-database.ts';

const ROWS = atFullSize() ? 1_000_000 : 50_000;

/**
 * Fills outbox.jobs with history: three quarters that have ended, each with its attempt, and a quarter that is due in a
 * year. 50,000 rows, with FULL=1 a million. `name` is a job of the catalogue.
 */
export async function addHistory({ pool }: TestDatabase, name: string): Promise<void> {
  await pool.query(
    /* sql */ `
    with added as (
      insert into outbox.jobs (name, queue, key, payload, scheduled_at, due_at, state, run, attempt, max_attempts, finished_at)
      select
        t.name, t.queue, n::text, '{}', due, due, case when ended then 'completed' else 'pending' end,
        case when ended then outbox.new_run() end, ended::int, t.max_attempts, case when ended then now() end
      from generate_series(1, $2::int) as s (n)
      cross join lateral (select n % 4 > 0 as ended) e
      cross join lateral (select now() + case when ended then interval '-1 minute' else interval '1 year' end as due) d
      join outbox.job_types t on t.name = $1
      returning id, generation, run, priority, scheduled_at, finished_at
    ),
    attempted as (
      insert into outbox.attempts (job_id, run, attempt, started_at, outcome)
      select id, run, 1, scheduled_at, 'completed' from added where finished_at is not null
    )
    insert into outbox.ready (job_id, generation, priority, scheduled_at, far)
    select id, generation, priority, scheduled_at, true from added where finished_at is null`,
    [name, ROWS],
  );
  await pool.query('vacuum (analyze) outbox.jobs, outbox.attempts, outbox.ready');
}

/** What auto_explain has to be told: every new connection gets the plan of each of its statements, also inside functions. */
const TELL_PLANS = {
  session_preload_libraries: 'auto_explain',
  'auto_explain.log_min_duration': '0',
  'auto_explain.log_nested_statements': 'on',
  'auto_explain.log_format': 'json',
  'auto_explain.log_level': 'notice',
};

/** Small whatever the history: settings, one row for each, and what is worked off at once. */
const SMALL = ['breakers', 'captures', 'job_types', 'meta', 'queues', 'removals'];

export interface Scan {
  table: string;
  /** Of the statement, as the server got it. */
  statement: string;
}

interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  Plans?: PlanNode[];
}

export interface ExplainedPool {
  readonly pool: Pool;
  /** Statements that read a table from its beginning to its end, unless it is small; grows as they are carried out. */
  readonly scans: readonly Scan[];
  /** How many statements were looked at. */
  readonly plans: number;
}

/** A pool whose statements the server explains while it carries them out. `preferIndexes` as in `createPool`. */
export async function createExplainedPool(
  { pool: admin, name, url }: TestDatabase,
  { preferIndexes }: { preferIndexes: boolean },
): Promise<ExplainedPool> {
  for (const [setting, value] of Object.entries(TELL_PLANS)) {
    await admin.query(`alter database ${name} set ${setting} = '${value}'`);
  }
  const scans: Scan[] = [];
  let plans = 0;
  const pool = createPool({
    url,
    applicationName: 'outbox test plans',
    max: 3,
    preferIndexes,
    onError: () => undefined,
  });
  pool.on('connect', (client) => {
    client.on('notice', ({ message = '' }) => {
      const [, json] = /^duration: .* plan:\n([^]*)$/.exec(message) ?? [];
      if (json === undefined) return;
      plans += 1;
      const { 'Query Text': statement, Plan: plan } = JSON.parse(json) as { 'Query Text': string; Plan: PlanNode };
      const tables = tablesReadWhole(plan).filter((table) => !SMALL.includes(table));
      for (const table of tables) scans.push({ table, statement });
    });
  });
  return {
    pool,
    scans,
    get plans() {
      return plans;
    },
  };
}

function tablesReadWhole({ 'Node Type': type, 'Relation Name': table, Plans: children = [] }: PlanNode): string[] {
  return [...(type === 'Seq Scan' && table !== undefined ? [table] : []), ...children.flatMap(tablesReadWhole)];
}

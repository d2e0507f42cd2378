import type { Pool } from '@outbox/core';
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
        case when ended then nextval('outbox.run') end, ended::int, t.max_attempts, case when ended then now() end
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

/** From now on the server tells every new connection the plan of each of its statements, also of those inside functions. */
export async function tellPlans({ pool, name }: TestDatabase): Promise<void> {
  const settings = {
    session_preload_libraries: 'auto_explain',
    'auto_explain.log_min_duration': '0',
    'auto_explain.log_nested_statements': 'on',
    'auto_explain.log_format': 'json',
    'auto_explain.log_level': 'notice',
  };
  for (const [setting, value] of Object.entries(settings)) {
    await pool.query(`alter database ${name} set ${setting} = '${value}'`);
  }
}

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

/** Statements of the pool that read a table from its beginning to its end; grows as they are carried out. */
export function collectSequentialScans(pool: Pool): { scans: readonly Scan[]; readonly plans: number } {
  const scans: Scan[] = [];
  let plans = 0;
  pool.on('connect', (client) => {
    client.on('notice', ({ message = '' }) => {
      const [, json] = /^duration: .* plan:\n([^]*)$/.exec(message) ?? [];
      if (json === undefined) return;
      plans += 1;
      const { 'Query Text': statement, Plan: plan } = JSON.parse(json) as { 'Query Text': string; Plan: PlanNode };
      for (const table of tablesReadWhole(plan)) scans.push({ table, statement });
    });
  });
  return {
    scans,
    get plans() {
      return plans;
    },
  };
}

function tablesReadWhole({ 'Node Type': type, 'Relation Name': table, Plans: children = [] }: PlanNode): string[] {
  return [...(type === 'Seq Scan' && table !== undefined ? [table] : []), ...children.flatMap(tablesReadWhole)];
}

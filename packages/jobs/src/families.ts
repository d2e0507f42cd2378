export type FamilyName = 'reminders' | 'bubble' | 'gmb' | 'golioth';

/** What a family puts into the database, and what it needs there. */
export interface Family {
  name: FamilyName;
  /** Tables of the host application without which the family cannot be installed. */
  hostTables: string[];
  /** Tables of the family's own: each file is applied once, in this order, and never edited afterwards. */
  migrations?: URL[];
  /** Functions, triggers and views, which migrate re-applies, in this order, when their text has changed. */
  sql: URL[];
  /**
   * Function that heals what the triggers of the family missed, called once a minute. Takes nothing; returns null when
   * another session is at it, else a JSON object: how many of what it healed, by name; `failed`, how many it could not,
   * with the last `error`; `more`, whether to call it again at once. Safe to repeat.
   */
  sweep?: `${string}.${string}`;
}

export const families: Family[] = [
  {
    name: 'reminders',
    hostTables: [
      'public.auto_syncs',
      'public.crew_members',
      'public.contacts',
      'public.auto_sync_responses',
      'public.auto_sync_messages',
    ],
    migrations: sqlFiles('reminders', ['0001_one_pending_per_type', '0002_jobs_by_uuid']),
    sql: [
      ...sqlFiles('reminders', ['trigger', 'job-queue']),
      sqlFile('pause-checks/functions.sql'),
      sqlFile('reminders/sweep.sql'),
    ],
    sweep: 'reminders.sweep',
  },
  {
    name: 'bubble',
    hostTables: ['public.users'],
    migrations: sqlFiles('bubble-sync', ['0001_jobs_by_uuid']),
    sql: sqlFiles('bubble-sync', ['user-source', 'functions', 'sync-queue', 'sweep', 'access']),
    sweep: 'bubble.sweep',
  },
  {
    name: 'gmb',
    hostTables: [
      'public.gmb_accounts',
      'public.oauth_tokens',
      'public.gmb_locations',
      'public.gmb_reviews',
      'public.sync_status',
      'public.error_logs',
    ],
    migrations: sqlFiles('gmb-sync', ['0001_marks_and_runs', '0002_cheaper_claims', '0003_jobs_by_uuid']),
    sql: sqlFiles('gmb-sync', [
      'host',
      'marks',
      'queue',
      'enqueue',
      'capture',
      'picking',
      'worker-runs',
      'diagnostics',
      'sweep',
      'access',
    ]),
    sweep: 'gmb.sweep',
  },
  {
    name: 'golioth',
    hostTables: ['public.integrations', 'public.devices', 'public.auto_sync_schedules'],
    migrations: sqlFiles('golioth-sync/migrations', ['0001_golioth']),
    sql: sqlFiles('golioth-sync', ['slots', 'host', 'schedules', 'trigger', 'sweep']),
    sweep: 'golioth.sweep',
  },
];

function sqlFiles(folder: string, names: string[]): URL[] {
  return names.map((name) => sqlFile(`${folder}/${name}.sql`));
}

/** SQL is read from src, wherever this module runs from (src in tests, dist otherwise). */
function sqlFile(path: string): URL {
  return new URL(`../src/${path}`, import.meta.url);
}

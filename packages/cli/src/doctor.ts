import {
  assertInstallation,
  connectQueueBackend,
  SCHEMA_VERSION,
  SILENT_AFTER_MS,
  type Queryable,
  type SharedSettings,
} from '@outbox/core';
import type { Command } from 'commander';
import { printRecords } from './output.ts';
import { explain, requireRedisUrl, withAnyDatabase, type Environment } from './session.ts';

interface Finding {
  check: string;
  status: 'ok' | 'look' | 'broken';
  detail: string;
}

const COLUMNS: Record<keyof Finding, string> = { check: 'CHECK', status: 'STATUS', detail: 'DETAIL' };

/** `doctor`: looks for what needs a person. */
export function addDoctorCommand(program: Command, env: Environment): void {
  program
    .command('doctor')
    .description('looks for what needs a person; exit code 1 when something is broken')
    .option('--json', 'print JSON')
    .action(({ json }: { json?: boolean }) =>
      withAnyDatabase(env, async ({ pool, settings }) => {
        const findings = await examine(pool, settings);
        printRecords(findings, COLUMNS, { json, none: '' });
        if (findings.some(({ status }) => status === 'broken')) process.exitCode = 1;
      }),
    );
}

type Check = (db: Queryable, settings: SharedSettings) => Promise<Omit<Finding, 'check'>>;

const CHECKS: Record<string, Check> = {
  installation: checkInstallation,
  durability: checkDurability,
  'queue backend': checkBackend,
  services: checkServices,
  captures: checkCaptures,
  'capture errors': checkCaptureErrors,
  effects: checkEffects,
  queues: checkQueues,
  restore: checkRestore,
};

/** One after the other; a check that cannot be made is a finding of its own. */
async function examine(db: Queryable, settings: SharedSettings): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [check, examineOne] of Object.entries(CHECKS)) {
    const found = await examineOne(db, settings).catch((error: unknown) => broken(explain(error)));
    findings.push({ check, ...found });
  }
  return findings;
}

type Found = Omit<Finding, 'check'>;

const ok = (detail: string): Found => ({ status: 'ok', detail });
const look = (detail: string): Found => ({ status: 'look', detail });
const broken = (detail: string): Found => ({ status: 'broken', detail });

async function checkInstallation(db: Queryable, settings: SharedSettings): Promise<Found> {
  await assertInstallation(db, settings);
  return ok(`instance ${settings.OUTBOX_INSTANCE}, schema ${SCHEMA_VERSION}, backend ${settings.QUEUE_BACKEND}`);
}

/** Settings of the server, of this database, and of users who log in. */
const NOT_ON_DISK = /* sql */ `
  select s.name || ' is off' as setting
  from unnest(array['fsync', 'synchronous_commit']) as s (name)
  where current_setting(s.name) = 'off'
  union all
  select 'synchronous_commit is off for ' || r.rolname
  from pg_db_role_setting d
  join pg_roles r on r.oid = d.setrole
  where d.setdatabase in (0, (select oid from pg_database where datname = current_database()))
    and 'synchronous_commit=off' = any (d.setconfig)
  limit 100`;

/** A call is made after its entry in the ledger is on the disk: without that, a crash of the database lets it be made twice. */
async function checkDurability(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ setting: string }>(NOT_ON_DISK);
  if (rows.length === 0) return ok('commits wait for the disk');
  const settings = rows.map(({ setting }) => setting).join(', ');
  return look(`${settings}: after a crash of the database a call may be made a second time`);
}

async function checkBackend(_db: Queryable, settings: SharedSettings): Promise<Found> {
  requireRedisUrl(settings);
  const backend = await connectQueueBackend(settings, () => undefined);
  try {
    await backend.ping();
    return ok(`${backend.kind} answers`);
  } finally {
    await backend.close();
  }
}

const SERVICES = /* sql */ `
  select
    k.service, count(s.id)::int as known,
    count(s.id) filter (where s.seen_at > clock_timestamp() - $1 * interval '1 ms')::int as live
  from (values ('api'), ('bridge'), ('worker')) k (service)
  left join outbox.services s on s.service = k.service
  group by k.service
  order by k.service
  limit 100`;

/** A process that stops takes its row along: one whose row is left, and silent, has died. */
async function checkServices(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ service: string; known: number; live: number }>(SERVICES, [SILENT_AFTER_MS]);
  if (rows.every(({ known }) => known === 0)) return look('no service is running');
  const detail = rows.map(({ service, live }) => `${service}: ${live} live`).join(', ');
  if (rows.some(({ known, live }) => known > 0 && live === 0)) {
    return broken(`${detail}; look at the log of what is missing`);
  }
  return rows.every(({ live }) => live > 0) ? ok(detail) : look(`${detail}; start what is missing`);
}

/**
 * A capture needs the triggers it lists, enabled (tgenabled O or A); one written by hand, without a list, needs a trigger of
 * ours for each of insert, update and delete (bits 4, 16 and 8 of tgtype). A trigger that a person dropped or disabled is
 * never restored: it is said here.
 */
const CAPTURES = /* sql */ `
  select c.table_name as "tableName", c.job_name as "jobName", e.event
  from outbox.captures c
  cross join (values ('insert', 4), ('update', 16), ('delete', 8)) as e (event, bit)
  where c.enabled
    and (c.triggers is null or c.triggers ? e.event)
    and not exists (
      select
      from pg_trigger t
      join pg_proc p on p.oid = t.tgfoid
      where t.tgrelid = to_regclass(c.table_name)
        and (c.triggers is null or t.tgname = c.triggers ->> e.event)
        and p.proowner = 'outbox_owner'::regrole
        and t.tgtype & e.bit <> 0
        and t.tgenabled in ('O', 'A')
    )
  order by c.id, e.bit
  limit 100`;

async function checkCaptures(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ tableName: string; jobName: string; event: string }>(CAPTURES);
  if (rows.length === 0) return ok('every capture has its triggers');
  const missing = rows.map(({ tableName, jobName, event }) => `${event} of ${tableName} (${jobName})`).join(', ');
  return broken(`no enabled trigger for ${missing}: enable it, or delete its row of outbox.captures and migrate`);
}

const CAPTURE_ERRORS = /* sql */ `
  select count(*)::int as count, max(captured_at) as newest
  from outbox.capture_errors
  where healed_at is null
  limit 1`;

async function checkCaptureErrors(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ count: number; newest: Date | null }>(CAPTURE_ERRORS);
  const { count = 0, newest = null } = rows[0] ?? {};
  if (count === 0) return ok('none');
  return broken(`${count} writes have no job, the newest of ${newest?.toISOString()}: see outbox.capture_errors`);
}

const UNKNOWN_EFFECTS = /* sql */ `
  select count(*)::int as count from outbox.effects where state = 'unknown' limit 1`;

async function checkEffects(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ count: number }>(UNKNOWN_EFFECTS);
  const count = rows[0]?.count ?? 0;
  return count === 0 ? ok('none is unknown') : look(`${count} unknown: "outbox effects", then "outbox resolve"`);
}

const PAUSED_QUEUES = /* sql */ `
  select q.name, q.paused_by as "pausedBy", q.reason
  from outbox.queues q
  where q.paused_at is not null
  order by q.name
  limit 100`;

async function checkQueues(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ name: string; pausedBy: string; reason: string | null }>(PAUSED_QUEUES);
  if (rows.length === 0) return ok('none is paused');
  const paused = rows.map(({ name, pausedBy, reason }) => `${name}, by ${pausedBy}${reason ? ` (${reason})` : ''}`);
  return look(`paused: ${paused.join('; ')}`);
}

const RESTORED = /* sql */ `
  select
    m.restored_from as "from", m.restored_at as at,
    exists (
      select from outbox.jobs j where j.created_at < m.restored_at and j.finished_at is null
    ) as open
  from outbox.meta m
  limit 1`;

async function checkRestore(db: Queryable): Promise<Found> {
  const { rows } = await db.query<{ from: Date | null; at: Date | null; open: boolean }>(RESTORED);
  const { from = null, at = null, open = false } = rows[0] ?? {};
  if (!from || !at) return ok('never restored');
  const period = `calls from ${from.toISOString()} to ${at.toISOString()} are not all known`;
  return open
    ? look(`${period}; jobs of then are still open and ask before they call`)
    : ok(`${period}; no job of then is open`);
}

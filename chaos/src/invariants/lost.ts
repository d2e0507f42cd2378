import { syncId } from '../business/ids.ts';
import { ask, mustBeNone, type Finding, type World } from './finding.ts';

/** Invariant 1: a committed row reaches its end, and every committed auto sync has its rows. */
export async function findLost({ pool, business }: World): Promise<Finding[]> {
  const idsOf = (fate: string) =>
    business.syncs.filter((record) => record.fate === fate).map(({ sync }) => syncId(sync.n));
  return [
    mustBeNone('auto syncs lost (committed, no reminder)', await ask(pool, WITHOUT_REMINDER, [idsOf('committed')])),
    mustBeNone('jobs of rolled back auto syncs', await ask(pool, PHANTOMS, [idsOf('absent')])),
    mustBeNone('jobs without an end', await ask(pool, WITHOUT_END)),
    mustBeNone('jobs failed', await ask(pool, FAILED)),
    mustBeNone('changes set aside and not healed', await ask(pool, SET_ASIDE)),
  ];
}

const WITHOUT_REMINDER = /* sql */ `
  select s.id::text as example
  from unnest($1::uuid[]) as s (id)
  where not exists (select from outbox.jobs j where j.name = 'reminder_24h' and j.key = s.id::text)
  limit 100000`;

/** Rows that a request asked for are nobody's mistake. */
const PHANTOMS = /* sql */ `
  select j.id || ' for ' || j.key as example
  from outbox.jobs j
  where j.key in (select s.id::text from unnest($1::uuid[]) as s (id)) and j.idempotency_key is null
  limit 100000`;

const WITHOUT_END = /* sql */ `
  select
    j.id || '-' || j.generation || ' ' || j.name || ' ' || j.state || ', attempt ' || j.attempt || ', due '
      || to_char(j.scheduled_at, 'HH24:MI:SS.MS') || coalesce(', ' || j.last_error, '') as example
  from outbox.jobs j
  where j.finished_at is null
  order by j.scheduled_at
  limit 100000`;

/** Nothing in a run makes a job fail for good: attempts are generous, and a refused recipient fails nobody's reminder. */
const FAILED = /* sql */ `
  select j.id || '-' || j.generation || ' ' || j.name || ' ' || j.reason || ': ' || coalesce(j.last_error, '') as example
  from outbox.jobs j
  where j.state = 'failed'
  limit 100000`;

const SET_ASIDE = /* sql */ `
  select
    to_char(e.captured_at, 'HH24:MI:SS.MS') || ' ' || e.job_name || ' ' || coalesce(e.key, '') || ' ' || e.sqlstate || ' '
      || e.message as example
  from outbox.capture_errors e
  where e.healed_at is null
  order by e.id
  limit 100000`;

import { ask, mustBeNone, type Finding, type World } from './finding.ts';

/** Every auto sync ended as it should: reminded, and paused when it is short of answers. */
export async function findEndings({ pool }: World): Promise<Finding[]> {
  return [
    mustBeNone('auto syncs texted and not marked as reminded', await ask(pool, NOT_MARKED)),
    mustBeNone('auto syncs short of answers and not paused', await ask(pool, NOT_PAUSED)),
  ];
}

const NOT_MARKED = /* sql */ `
  select s.id::text as example
  from reminders.standings s
  where s.status = 'running'
    and s.last_reminder_sent_at is null
    and exists (select from reminders.texts t where t.auto_sync_id = s.id and t.state = 'confirmed')
  limit 100000`;

const NOT_PAUSED = /* sql */ `
  select s.id || ', ' || s.response_count || ' of ' || s.responses_needed as example
  from reminders.standings s
  where s.status = 'running' and s.last_reminder_sent_at is not null and s.response_count < s.responses_needed
  limit 100000`;

import { ask, mustBeNone, told, type Finding, type World } from './finding.ts';

/** Invariants 2, 3 and 5: a job ends once, is run by one worker at a time, and its key is held once. */
export async function findRuns({ pool }: World): Promise<Finding[]> {
  return [
    mustBeNone('jobs completed twice', await ask(pool, COMPLETED_TWICE)),
    mustBeNone('attempts begun after the end of their job', await ask(pool, AFTER_END)),
    mustBeNone('jobs run by two at a time', await ask(pool, OVERLAPPING)),
    mustBeNone('keys held twice', await ask(pool, HELD_TWICE)),
    told('jobs of one auto sync and kind run at the same time', await ask(pool, SIDE_BY_SIDE)),
  ];
}

const COMPLETED_TWICE = /* sql */ `
  select a.job_id || ', ' || count(*) || ' times' as example
  from outbox.attempts a
  where a.outcome in ('completed', 'skipped', 'failed', 'cancelled')
  group by a.job_id
  having count(*) > 1
  limit 100000`;

const AFTER_END = /* sql */ `
  select j.id || ' ended ' || j.finished_at || ', attempt ' || a.attempt || ' began ' || a.started_at as example
  from outbox.jobs j
  join outbox.attempts a on a.job_id = j.id
  where a.started_at > j.finished_at
  limit 100000`;

/** An interrupted attempt is noted by the run that takes over, so its end says nothing. */
const OVERLAPPING = /* sql */ `
  select a.job_id || ' run ' || a.run || ' and ' || a.next_run as example
  from (
    select
      job_id, run, outcome, finished_at, lead(run) over runs as next_run, lead(started_at) over runs as next_started_at
    from outbox.attempts
    window runs as (partition by job_id order by run)
  ) a
  where a.next_started_at < a.finished_at and a.outcome <> 'interrupted'
  limit 100000`;

const HELD_TWICE = /* sql */ `
  select j.name || ' ' || j.key as example
  from outbox.jobs j
  where j.holds_key
  group by j.name, j.key
  having count(*) > 1
  limit 100000`;

const SIDE_BY_SIDE = /* sql */ `
  select a.key || ': ' || a.job_id || ' and ' || a.next_id as example
  from (
    select
      j.key, a.job_id, a.finished_at, lead(a.job_id) over runs as next_id,
      lead(a.started_at) over runs as next_started_at
    from outbox.attempts a
    join outbox.jobs j on j.id = a.job_id
    where a.outcome <> 'interrupted'
    window runs as (partition by j.name, j.key order by a.started_at)
  ) a
  where a.next_started_at < a.finished_at and a.next_id <> a.job_id
  limit 100000`;

import { codeOf, SQLSTATE, type Queryable } from '@outbox/core';

/** Most serial keys that get their next job in one statement. */
const BATCH = 500;

/** Held for the moment of the statement: bridges that admit side by side would choose the same rows. The number is arbitrary. */
const ADMISSION_LOCK = '122524661739386';

/** When another bridge was looking just now, look again after so many milliseconds. */
const LOOK_AGAIN_MS = 20;

/**
 * Of every serial key nobody has admitted a row of, the row with the highest priority and then the earliest due time.
 * Only what is due: a job due in three days must not keep one that is due now waiting. A row that somebody has locked is
 * passed over, and keeps nobody waiting. A row that was cancelled or moved on while it waited is let go as well, for the
 * publish to clear away, when it stands first.
 *
 * Keys are found by going from each to the next in the index: with 100,000 rows waiting for one key, a look takes 2 ms, and
 * 30 ms when all are read. The instant is the statement's: it can be looked up in an index, which clock_timestamp() cannot.
 */
const ADMIT = /* sql */ `
  with recursive turn as materialized (
    select pg_try_advisory_xact_lock($1) as is_ours
  ),
  waiting_keys as (
    (
      select r.serial_key
      from outbox.ready r
      where r.serial_key is not null and (select is_ours from turn)
      order by r.serial_key
      limit 1
    )
    union all
    select (
      select r.serial_key from outbox.ready r where r.serial_key > k.serial_key order by r.serial_key limit 1
    )
    from waiting_keys k
    where k.serial_key is not null
  ),
  free_keys as materialized (
    select k.serial_key
    from waiting_keys k
    where not exists (select from outbox.jobs a where a.serial_key = k.serial_key and a.admitted)
  ),
  next_in_line as materialized (
    select n.id, n.generation
    from free_keys k
    cross join lateral (
      select j.id, j.generation
      from outbox.ready r
      join outbox.jobs j on j.id = r.job_id and j.generation = r.generation
      where r.serial_key = k.serial_key
        and r.scheduled_at <= statement_timestamp()
        and j.state = 'pending'
      order by r.priority desc, r.scheduled_at
      limit 1
      for no key update of j skip locked
    ) n
    limit ${BATCH}
  ),
  admitted as (
    update outbox.jobs j
    set admitted = true
    from next_in_line n
    where j.id = n.id
    returning j.id, j.generation
  ),
  moved_on as (
    select f.job_id, f.generation
    from waiting_keys k
    cross join lateral (
      select r.job_id, r.generation
      from outbox.ready r
      where r.serial_key = k.serial_key
      order by r.priority desc, r.scheduled_at
      limit 1
    ) f
    where not exists (
      select from outbox.jobs j where j.id = f.job_id and j.generation = f.generation and j.state = 'pending'
    )
    limit ${BATCH}
  ),
  let_go as (
    update outbox.ready r
    set serial_key = null
    from (select a.id as job_id, a.generation from admitted a union all select m.job_id, m.generation from moved_on m) g
    where r.job_id = g.job_id and r.generation = g.generation
    returning 1
  )
  select
    (select count(*) from let_go)::int as "letGo",
    (select is_ours from turn) as "isOurs",
    (
      select extract(epoch from min(r.scheduled_at) - clock_timestamp())::float8 * 1000
      from outbox.ready r
      where r.serial_key is not null and r.scheduled_at > statement_timestamp()
    ) as "nextInMs"
  limit 1`;

const UNIQUE_VIOLATION = '23505';

export interface Admission {
  /** Rows that the next publish will find. */
  letGo: number;
  /** Milliseconds until the next row with a serial key is due, or a look is worth while; undefined when none is waiting. */
  nextInMs: number | undefined;
}

interface Answer extends Record<string, unknown> {
  letGo: number;
  /** False when another bridge was looking: then nothing is known about rows that committed meanwhile. */
  isOurs: boolean;
  nextInMs: number | null;
}

/**
 * Lets the next job of each serial key into the outbox: at most one row of a key is admitted at a time, from here until it
 * ends, which a unique index guarantees whoever else runs. Only admitted rows are published, and only admitted rows are
 * claimed. A crash afterwards leaves an admitted pending row, which the next publish finds.
 */
export async function admitNext(db: Queryable): Promise<Admission> {
  try {
    const { rows } = await db.query<Answer>(ADMIT, [ADMISSION_LOCK]);
    const [answer] = rows;
    if (!answer?.isOurs) return { letGo: 0, nextInMs: LOOK_AGAIN_MS };
    return { letGo: answer.letGo, nextInMs: answer.nextInMs === null ? undefined : Math.max(0, answer.nextInMs) };
  } catch (error) {
    // Another bridge admitted between our snapshot and our turn: the next look sees it.
    if (codeOf(error) === UNIQUE_VIOLATION || codeOf(error) === SQLSTATE.lockNotAvailable) {
      return { letGo: 0, nextInMs: 0 };
    }
    throw error;
  }
}

import { codeOf, SQLSTATE, type Queryable } from '@outbox/core';

/** Most serial keys that get their next job in one statement. */
const BATCH = 500;

/** Held for the moment of the statement: bridges that admit side by side would choose the same rows. The number is arbitrary. */
const ADMISSION_LOCK = '122524661739386';

/**
 * Of every serial key nobody has admitted a row of, the row with the highest priority and then the earliest due time.
 * Only what is due: a job due in three days must not keep one that is due now waiting. A row that was cancelled or moved on
 * while it waited is let go as well, for the publish to clear away: it would stand before the others for ever.
 */
const ADMIT = /* sql */ `
  with turn as materialized (
    select pg_try_advisory_xact_lock($1) as is_ours
  ),
  next_in_line as (
    select distinct on (r.serial_key) r.job_id, r.generation
    from outbox.ready r
    where r.serial_key is not null
      and r.scheduled_at <= clock_timestamp()
      and (select is_ours from turn)
      and not exists (select from outbox.jobs a where a.serial_key = r.serial_key and a.admitted)
    order by r.serial_key, r.priority desc, r.scheduled_at
    limit ${BATCH}
  ),
  waiting as (
    select j.id, n.generation
    from next_in_line n
    join outbox.jobs j on j.id = n.job_id and j.generation = n.generation
    where j.state = 'pending'
    order by j.id
    for no key update of j skip locked
  ),
  admitted as (
    update outbox.jobs j
    set admitted = true
    from waiting w
    where j.id = w.id
    returning j.id, j.generation
  ),
  let_go as (
    update outbox.ready r
    set serial_key = null
    from next_in_line n
    where r.job_id = n.job_id
      and r.generation = n.generation
      and (
        exists (select from admitted a where a.id = n.job_id)
        or not exists (
          select from outbox.jobs j where j.id = n.job_id and j.generation = n.generation and j.state = 'pending'
        )
      )
    returning 1
  )
  select
    (select count(*) from let_go)::int as "letGo",
    (
      select extract(epoch from min(r.scheduled_at) - clock_timestamp())::float8 * 1000
      from outbox.ready r
      where r.serial_key is not null and r.scheduled_at > clock_timestamp()
    ) as "nextInMs"`;

const UNIQUE_VIOLATION = '23505';

export interface Admission {
  /** Rows that the next publish will find. */
  letGo: number;
  /** Milliseconds until the next row with a serial key is due; undefined when none is waiting for its time. */
  nextInMs: number | undefined;
}

/**
 * Lets the next job of each serial key into the outbox: at most one row of a key is admitted at a time, from here until it
 * ends, which a unique index guarantees whoever else runs. Only admitted rows are published, and only admitted rows are
 * claimed. A crash afterwards leaves an admitted pending row, which the next publish finds.
 */
export async function admitNext(db: Queryable): Promise<Admission> {
  try {
    const { rows } = await db.query<{ letGo: number; nextInMs: number | null }>(ADMIT, [ADMISSION_LOCK]);
    return { letGo: rows[0]?.letGo ?? 0, nextInMs: rows[0]?.nextInMs ?? undefined };
  } catch (error) {
    // Another bridge admitted between our snapshot and our turn: the next look sees it.
    if (codeOf(error) === UNIQUE_VIOLATION || codeOf(error) === SQLSTATE.lockNotAvailable) {
      return { letGo: 0, nextInMs: 0 };
    }
    throw error;
  }
}

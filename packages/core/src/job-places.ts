import type { Redis } from 'ioredis';
import type { Pool } from './postgres.ts';

/**
 * What the queue backend has of a job:
 * - `open`: it means to run it, or is running it
 * - `ended`: kept as completed or failed; adding the same id again does nothing
 * - `missing`: nothing
 * - `stranded`: a half. Its data is there and no list holds its id, so nothing will ever take it; or the other way round.
 */
export type JobPlace = 'open' | 'ended' | 'missing' | 'stranded';

/** Ids of jobs that wait (delayed, waiting, prioritized), and where the next page begins; undefined after the last. */
export interface WaitingPage {
  ids: string[];
  next: string | undefined;
}

/** The key of a queue's part, such as `delayed`, or of a job. */
type KeyOf = (part: string) => string;

const SORTED = ['delayed', 'prioritized', 'waiting-children'] as const;
const ENDED = ['completed', 'failed'] as const;
/** `paused` is where older versions of BullMQ kept the waiting jobs of a paused queue. */
const LISTS = ['wait', 'paused', 'active'] as const;

/**
 * Looks in two rounds, each atomic. The first costs the same however long the queue is, and settles most. Only for the rest
 * are the lists read, once for all, together with everything else once more: a job that moves between the two rounds is
 * in one place or another of the second.
 */
export async function placesInRedis(redis: Redis, key: KeyOf, jobIds: string[]): Promise<Map<string, JobPlace>> {
  const first = await lookInRedis(redis, key, jobIds, []);
  const places = new Map(jobIds.map((id) => [id, placeOf(id, first)]));
  const unsettled = jobIds.filter((id) => places.get(id) === 'stranded' || places.get(id) === 'missing');
  if (unsettled.length === 0) return places;
  const second = await lookInRedis(redis, key, unsettled, LISTS);
  for (const id of unsettled) places.set(id, placeOf(id, second));
  return places;
}

interface Look {
  /** Ids that have data. */
  kept: Set<string>;
  waiting: Set<string>;
  ended: Set<string>;
}

async function lookInRedis(redis: Redis, key: KeyOf, ids: string[], lists: readonly string[]): Promise<Look> {
  const look: Look = { kept: new Set(), waiting: new Set(), ended: new Set() };
  const transaction = redis.multi();
  const readers: ((answer: unknown) => void)[] = [];
  for (const id of ids) {
    transaction.exists(key(id));
    readers.push((answer) => void (answer === 1 && look.kept.add(id)));
    for (const set of [...SORTED, ...ENDED]) {
      transaction.zscore(key(set), id);
      const found = (ENDED as readonly string[]).includes(set) ? look.ended : look.waiting;
      readers.push((answer) => void (answer !== null && found.add(id)));
    }
  }
  for (const list of lists) {
    transaction.lrange(key(list), 0, -1);
    readers.push((answer) => (answer as string[]).forEach((id) => look.waiting.add(id)));
  }
  (await answersOf(transaction)).forEach((answer, at) => readers[at]?.(answer));
  return look;
}

function placeOf(id: string, { kept, waiting, ended }: Look): JobPlace {
  if (ended.has(id)) return 'ended';
  if (kept.has(id) && waiting.has(id)) return 'open';
  return kept.has(id) || waiting.has(id) ? 'stranded' : 'missing';
}

async function answersOf(transaction: ReturnType<Redis['multi']>): Promise<unknown[]> {
  const answers = (await transaction.exec()) ?? [];
  return answers.map(([error, answer]) => {
    if (error) throw error;
    return answer;
  });
}

/** BullMQ's score of a delayed job is its instant times this, plus a number that keeps the order within a millisecond. */
const SCORES_PER_MS = 4_096;

export async function delayedInRedis(redis: Redis, key: KeyOf, jobIds: string[]): Promise<Map<string, number>> {
  const scores = await redis.zmscore(key('delayed'), ...jobIds);
  return new Map(
    jobIds.flatMap((id, at) => {
      const score = scores[at];
      return score ? [[id, Math.floor(Number(score) / SCORES_PER_MS)] as const] : [];
    }),
  );
}

const WAITING: readonly string[] = ['delayed', 'prioritized', 'wait', 'paused'];

/**
 * One page of the jobs that wait, part after part. Jobs that come or go meanwhile move the others: a page may miss one or
 * show it twice, and the next time through everything makes up for it.
 */
export async function waitingInRedis(
  redis: Redis,
  key: KeyOf,
  cursor: string | undefined,
  limit: number,
): Promise<WaitingPage> {
  const [part = WAITING[0] ?? '', offset = '0'] = cursor?.split(':') ?? [];
  const [from, to] = [Number(offset), Number(offset) + limit - 1];
  const isList = part === 'wait' || part === 'paused';
  const ids = await (isList ? redis.lrange(key(part), from, to) : redis.zrange(key(part), from, to));
  if (ids.length === limit) return { ids, next: `${part}:${to + 1}` };
  const nextPart = WAITING[WAITING.indexOf(part) + 1];
  return { ids, next: nextPart === undefined ? undefined : `${nextPart}:0` };
}

const PLACES = /* sql */ `
  select id, state in ('completed', 'failed') as ended
  from bullmq.job
  where queue = $1 and id = any ($2)
  limit $3`;

/** Here a job's data and its place are one row: none is ever stranded. */
export async function placesInPostgres(pool: Pool, queue: string, jobIds: string[]): Promise<Map<string, JobPlace>> {
  const { rows } = await pool.query<{ id: string; ended: boolean }>(PLACES, [queue, jobIds, jobIds.length]);
  const places = new Map<string, JobPlace>(jobIds.map((id) => [id, 'missing']));
  for (const { id, ended } of rows) places.set(id, ended ? 'ended' : 'open');
  return places;
}

const DELAYED = /* sql */ `
  select id, process_at_ms::float8 as "atMs"
  from bullmq.job
  where queue = $1 and id = any ($2) and state = 'delayed'
  limit $3`;

export async function delayedInPostgres(pool: Pool, queue: string, jobIds: string[]): Promise<Map<string, number>> {
  const { rows } = await pool.query<{ id: string; atMs: number }>(DELAYED, [queue, jobIds, jobIds.length]);
  return new Map(rows.map(({ id, atMs }) => [id, atMs]));
}

const WAITING_PAGE = /* sql */ `
  select id
  from bullmq.job
  where queue = $1 and id > $2 and state in ('waiting', 'delayed')
  order by id
  limit $3`;

export async function waitingInPostgres(
  pool: Pool,
  queue: string,
  cursor: string | undefined,
  limit: number,
): Promise<WaitingPage> {
  const { rows } = await pool.query<{ id: string }>(WAITING_PAGE, [queue, cursor ?? '', limit]);
  const ids = rows.map(({ id }) => id);
  return { ids, next: ids.length === limit ? ids.at(-1) : undefined };
}

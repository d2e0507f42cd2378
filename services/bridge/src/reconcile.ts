import { reached, withTransaction, type Logger, type Pool, type QueueBackend } from '@outbox/core';

/**
 * Keeps BullMQ in step with Postgres. Postgres is right; whatever BullMQ does not have is published again under a new
 * generation. Three nets, each for what the one before cannot see:
 *
 *   epoch    a queue's data is gone as a whole (FLUSHALL, a restart without persistence, another server). The queue's data
 *            carries a number that Postgres has too; when it is missing or another, the number is raised, and every row
 *            published under an older one goes back. Rows of a publish that was under way meanwhile commit later, with
 *            the older number: they are looked for a while longer.
 *   overdue  a job should have run by now and has not (part of the data is gone, or somebody removed the job)
 *   scan     a job that is not due yet is gone: all published rows are looked through, some at a time
 */
export interface ReconcileOptions {
  pool: Pool;
  backend: QueueBackend;
  queues: readonly string[];
  log: Logger;
}

/** Rows of one statement, and of one look at the backend. */
const BATCH = 1_000;

const READ_EPOCH = /* sql */ `
  select epoch from outbox.queues where name = $1 limit 1`;

/** Bridges that see a loss together take turns: the second finds it settled. */
const LOCK_EPOCH = /* sql */ `
  select epoch from outbox.queues where name = $1 limit 1 for no key update`;

const RAISE_EPOCH = /* sql */ `
  update outbox.queues set epoch = epoch + 1 where name = $1 returning epoch`;

const FIND_OLD_EPOCH = /* sql */ `
  select j.id, j.generation
  from outbox.jobs j
  join outbox.queues q on q.name = j.queue
  where j.finished_at is null
    and j.queue = $1
    and j.published_epoch is distinct from q.epoch
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp()))
  order by j.scheduled_at, j.id
  limit ${BATCH}`;

const UNPUBLISH = /* sql */ `
  select outbox.unpublish(ids => $1, generations => $2)::int as returned
  limit 1`;

/** The epochs this process has seen, by queue. */
export type SeenEpochs = Map<string, string>;

/**
 * Compares each queue's epoch in Postgres with the one in its data, and raises it when the data is gone. Returns the
 * queues whose epoch is another than in `seen`, raised here or by another bridge: rows published under an older one are
 * to be taken back.
 */
export async function followEpochs(options: ReconcileOptions, seen: SeenEpochs): Promise<string[]> {
  const changed: string[] = [];
  for (const queue of options.queues) {
    const inBackend = await options.backend.readEpoch(queue);
    const { rows } = await options.pool.query<{ epoch: string }>(READ_EPOCH, [queue]);
    const inPostgres = rows[0]?.epoch;
    if (inPostgres === undefined) continue;
    const epoch = inPostgres === inBackend ? inPostgres : await agreeOnEpoch(options, queue);
    if (seen.get(queue) !== epoch) changed.push(queue);
    seen.set(queue, epoch);
  }
  return changed;
}

/**
 * A crash after the write to the backend and before the commit leaves Postgres behind by one: the next look raises it to
 * what the backend has already.
 */
async function agreeOnEpoch({ pool, backend, log }: ReconcileOptions, queue: string): Promise<string> {
  return withTransaction(pool, async (client) => {
    const { rows } = await client.query<{ epoch: string }>(LOCK_EPOCH, [queue]);
    const before = rows[0]?.epoch ?? NEVER_SERVED;
    if ((await backend.readEpoch(queue)) === before) return before;
    const raised = await client.query<{ epoch: string }>(RAISE_EPOCH, [queue]);
    const epoch = raised.rows[0]?.epoch ?? before;
    await backend.writeEpoch(queue, epoch);
    reached('epoch.written');
    if (before !== NEVER_SERVED) log.warn({ queue, epoch }, 'queue data lost, publishing again');
    return epoch;
  });
}

/** The epoch of a queue that no backend has had yet. */
const NEVER_SERVED = '0';

/** Takes back what was published under another epoch than its queue's, earliest due first; returns how many rows. */
export async function takeBackOlder(pool: Pool, queues: readonly string[]): Promise<number> {
  let total = 0;
  for (const queue of queues) {
    for (let found = BATCH, returned = 1; found === BATCH && returned > 0;) {
      const { rows } = await pool.query<Published>(FIND_OLD_EPOCH, [queue]);
      found = rows.length;
      returned = await unpublish(pool, rows);
      total += returned;
    }
  }
  return total;
}

export interface Published {
  id: string;
  generation: number;
}

/** Takes rows back that are still in the generation that was looked for; returns how many. */
export async function unpublish(pool: Pool, rows: Published[]): Promise<number> {
  if (rows.length === 0) return 0;
  const { rows: answer } = await pool.query<{ returned: number }>(UNPUBLISH, [
    rows.map(({ id }) => id),
    rows.map(({ generation }) => generation),
  ]);
  return answer[0]?.returned ?? 0;
}

const FIND_OPEN = /* sql */ `
  select j.id, j.generation, j.queue, j.scheduled_at::text as "scheduledAt"
  from outbox.jobs j
  join outbox.queues q on q.name = j.queue
  where j.finished_at is null
    and (j.state = 'published' or (j.state = 'active' and j.locked_until < clock_timestamp() - interval '30 s'))
    and j.scheduled_at < clock_timestamp() + $1 * interval '1 ms'
    and (j.scheduled_at, j.id) > ($2::timestamptz, $3::bigint)
  order by j.scheduled_at, j.id
  limit ${BATCH}`;

interface OpenRow extends Published, Cursor {
  queue: string;
}

/** Where a scan goes on: behind this row. The instant is Postgres' own text, since a Date has no microseconds. */
export interface Cursor {
  scheduledAt: string;
  id: string;
}

export const BEGINNING: Cursor = { scheduledAt: '-infinity', id: '0' };

/**
 * Looks at up to 1,000 published rows behind `cursor` that are due within `withinMs` (negative: overdue for so long).
 * Returns those that BullMQ does not have any more, or has as completed or failed although the row is not; and where to
 * go on: the beginning after the last.
 */
export async function findLost(
  { pool, backend }: ReconcileOptions,
  { cursor, withinMs }: { cursor: Cursor; withinMs: number },
): Promise<{ lost: Published[]; next: Cursor }> {
  const { rows } = await pool.query<OpenRow & Record<string, unknown>>(FIND_OPEN, [
    withinMs,
    cursor.scheduledAt,
    cursor.id,
  ]);
  const lost: Published[] = [];
  for (const queue of new Set(rows.map((row) => row.queue))) {
    const ofQueue = rows.filter((row) => row.queue === queue);
    const open = await backend.openJobs(queue, ofQueue.map(bullJobId));
    lost.push(...ofQueue.filter((row) => !open.has(bullJobId(row))));
  }
  const last = rows.at(-1);
  return { lost, next: rows.length === BATCH && last ? last : BEGINNING };
}

function bullJobId({ id, generation }: Published): string {
  return `${id}-${generation}`;
}

/** A job due for so long and not run is looked for; shorter, it may just be waiting its turn. */
const OVERDUE_MS = 15_000;
const CHECK_OVERDUE_EVERY_MS = 5_000;
const FOLLOW_EVERY_MS = 500;
const SCAN_EVERY_MS = 1_000;
/** Thirty years: everything. */
const EVER_MS = 1_000_000_000_000;

/** Longer than any publish can be under way: its session is ended when it idles in its transaction for 30 s. */
const STRAGGLERS_FOR_MS = 60_000;

/** Runs the three nets for as long as the bridge runs. An error is logged; the next round tries again. */
export class Reconciler {
  readonly #options: ReconcileOptions;
  readonly #seen: SeenEpochs = new Map();
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #stopped = false;
  #cursor = BEGINNING;
  #overdueAt = 0;
  #scanAt = 0;
  /** Until when rows of an older epoch are looked for: after a change of epoch, and after our own start. */
  #stragglersUntil = 0;

  constructor(options: ReconcileOptions) {
    this.#options = options;
  }

  /** Agrees on the epochs first: what is published from now on carries them. */
  async start(): Promise<void> {
    await this.#reconcile();
    this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#round;
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#reconcile().finally(() => this.#schedule());
    }, FOLLOW_EVERY_MS);
  }

  async #reconcile(): Promise<void> {
    try {
      await this.#followEpochs();
      if (performance.now() > this.#overdueAt) await this.#checkOverdue();
      if (performance.now() > this.#scanAt) await this.#scan();
    } catch (err) {
      this.#options.log.warn({ err }, 'reconcile failed');
    }
  }

  async #followEpochs(): Promise<void> {
    const before = new Map(this.#seen);
    try {
      await followEpochs(this.#options, this.#seen);
    } finally {
      // A later queue's error must not make an earlier one's change forgotten.
      if ([...this.#seen].some(([queue, epoch]) => before.get(queue) !== epoch)) this.#lookForStragglers();
    }
    if (performance.now() > this.#stragglersUntil) return;
    const returned = await takeBackOlder(this.#options.pool, this.#options.queues).catch((error: unknown) => {
      this.#lookForStragglers();
      throw error;
    });
    if (returned > 0) this.#lookForStragglers();
    this.#note('epoch', returned);
  }

  #lookForStragglers(): void {
    this.#stragglersUntil = performance.now() + STRAGGLERS_FOR_MS;
  }

  async #checkOverdue(): Promise<void> {
    this.#overdueAt = performance.now() + CHECK_OVERDUE_EVERY_MS;
    const { lost } = await findLost(this.#options, { cursor: BEGINNING, withinMs: -OVERDUE_MS });
    await this.#takeBack('overdue', lost);
  }

  async #scan(): Promise<void> {
    this.#scanAt = performance.now() + SCAN_EVERY_MS;
    const { lost, next } = await findLost(this.#options, { cursor: this.#cursor, withinMs: EVER_MS });
    this.#cursor = next;
    await this.#takeBack('scan', lost);
  }

  /** If everything was lost a moment ago, the epoch is raised first: taken back before, rows would be so twice. */
  async #takeBack(net: string, lost: Published[]): Promise<void> {
    if (lost.length === 0) return;
    await this.#followEpochs();
    this.#note(net, await unpublish(this.#options.pool, lost));
  }

  #note(net: string, returned: number): void {
    if (returned > 0) this.#options.log.warn({ net, returned }, 'lost jobs published again');
  }
}

import { setTimeout as wait } from 'node:timers/promises';
import { assertNever, SECOND, withTransaction, type Pool, type Queryable } from '@outbox/core';
import { contactId, crewId, nobodysSync, ORGANIZER, phoneOf, syncId } from './ids.ts';
import type { Action, Answer, BusinessPlan, Deletion, Insert, PlannedSync, Request, StatusChange } from './plan.ts';
import { Writes, type Write } from './writes.ts';

/** What is known of one auto sync. */
export interface SyncRecord {
  sync: PlannedSync;
  fate: 'planned' | 'committed' | 'unknown' | 'absent';
  /** Times in which it certainly was not running, epoch milliseconds: nothing may be sent in them. */
  notRunning: { from: number; until: number }[];
  /** What is done to it goes one after the other. */
  last: Promise<unknown>;
}

/** One Idempotency-Key and the rows that its answers named. */
export interface RequestRecord {
  key: string;
  rows: Set<string>;
  /** Sent and not (or not well) answered. */
  unanswered: number;
}

export interface BusinessOptions {
  /** Straight to Postgres: the host application has nothing to do with our services' links. */
  pool: Pool;
  apiUrl: string;
  serviceKey: string;
  plan: BusinessPlan;
  note: (event: object) => void;
}

const CREWS_AT_ONCE = 5_000;

/** A request that is not answered by then is sent again. */
const REQUEST_TIMEOUT_MS = 4 * SECOND;
const REQUEST_RETRY_MS = 500;
const MOST_TRIES = 8;

/** The host application and its users. */
export class Business {
  readonly syncs: SyncRecord[];
  readonly requests: RequestRecord[] = [];
  readonly writes: Writes;
  readonly #options: BusinessOptions;
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(options: BusinessOptions) {
    this.#options = options;
    this.writes = new Writes((write) => options.note({ event: 'write', ...write }));
    this.syncs = options.plan.syncs.map((sync) => ({
      sync,
      fate: 'planned',
      notRunning: [],
      last: Promise.resolve(),
    }));
  }

  /** Crews and contacts of all auto syncs to come. */
  async prepare(): Promise<void> {
    const { pool, plan } = this.#options;
    await pool.query(INSERT_ORGANIZER, [ORGANIZER]);
    for (let from = 0; from < plan.syncs.length; from += CREWS_AT_ONCE) {
      const syncs = plan.syncs.slice(from, from + CREWS_AT_ONCE);
      const members = syncs.flatMap(({ n, members }) =>
        members.map((hasPhone, member) => ({
          crew: crewId(n),
          contact: contactId(n, member),
          phone: hasPhone ? phoneOf(n, member) : null,
        })),
      );
      await pool.query(INSERT_CREWS, [ORGANIZER, syncs.map(({ n }) => crewId(n)), JSON.stringify(members)]);
    }
  }

  /** Does what the plan says when it says so, until the end of the plan or of `signal`; then waits for what is under way. */
  async run(signal: AbortSignal): Promise<void> {
    const started = performance.now();
    for (const action of this.#options.plan.actions) {
      const early = action.atMs - (performance.now() - started);
      if (early > 1) await wait(early, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) break;
      void this.#begin(this.#act(action));
    }
    await Promise.all(this.#underWay);
  }

  /** Pauses the newest `count` auto syncs that are known to be there, each in a transaction of its own. */
  async pauseNewest(count: number): Promise<void> {
    const newest = this.syncs.filter(({ fate }) => fate === 'committed').slice(-count);
    await Promise.all(newest.map(({ sync }) => this.#begin(this.#changeStatus(pauseOf(sync.n)))));
  }

  /** Which auto syncs are there although the answer to their insert got lost. */
  async resolveUnknown(): Promise<void> {
    const unknown = this.syncs.filter(({ fate }) => fate === 'unknown');
    const { rows } = await this.#options.pool.query<{ id: string }>(FIND_SYNCS, [
      unknown.map(({ sync }) => syncId(sync.n)),
    ]);
    const there = new Set(rows.map(({ id }) => id));
    for (const record of unknown) record.fate = there.has(syncId(record.sync.n)) ? 'committed' : 'absent';
  }

  async #begin(work: Promise<unknown>): Promise<void> {
    this.#underWay.add(work);
    await work;
    this.#underWay.delete(work);
  }

  #act(action: Action): Promise<unknown> {
    switch (action.kind) {
      case 'insert':
        return this.#insert(action);
      case 'answer':
        return this.#answer(action);
      case 'status':
        return this.#changeStatus(action);
      case 'delete':
        return this.#delete(action);
      case 'request':
        return this.#request(action);
      default:
        return assertNever(action);
    }
  }

  async #insert({ syncs, ending, holdMs }: Insert): Promise<void> {
    const rows = JSON.stringify(
      syncs.map(({ n, goal }) => ({ id: syncId(n), crew: crewId(n), event: `Event ${n}`, goal })),
    );
    const insert = (db: Queryable) => db.query(INSERT_SYNCS, [ORGANIZER, rows]);
    const work = this.#transact('insert', { ending, holdMs }, insert);
    for (const { n } of syncs) this.#recordOf(n).last = work;
    const { outcome } = await work;
    for (const { n } of syncs) this.#recordOf(n).fate = FATES[outcome];
  }

  async #answer({ sync, member }: Answer): Promise<void> {
    await this.#inTurn(sync, () =>
      this.#transact('answer', AT_ONCE, (db) => db.query(INSERT_ANSWER, [syncId(sync), contactId(sync, member)])),
    );
  }

  async #changeStatus({ sync, to, ending, holdMs }: StatusChange): Promise<void> {
    await this.#inTurn(sync, async (record) => {
      if (to === 'running') this.#mayRun(record);
      const write = await this.#transact(`status ${to}`, { ending, holdMs }, (db) =>
        db.query(SET_STATUS, [syncId(sync), to]),
      );
      if (to !== 'running' && write.outcome === 'committed') this.#runsNoMore(record);
    });
  }

  async #delete({ sync }: Deletion): Promise<void> {
    await this.#inTurn(sync, async (record) => {
      const write = await this.#transact('delete', AT_ONCE, (db) => db.query(DELETE_SYNC, [syncId(sync)]));
      if (write.outcome === 'committed') this.#runsNoMore(record);
    });
  }

  #runsNoMore({ notRunning }: SyncRecord): void {
    if (notRunning.at(-1)?.until !== Infinity) notRunning.push({ from: Date.now(), until: Infinity });
  }

  #mayRun({ notRunning }: SyncRecord): void {
    const last = notRunning.at(-1);
    if (last && last.until === Infinity) last.until = Date.now();
  }

  /** After whatever was done to this auto sync before, and only if it is there. */
  async #inTurn(n: number, work: (record: SyncRecord) => Promise<unknown>): Promise<void> {
    const record = this.#recordOf(n);
    const mine = record.last.then(async () => {
      if (record.fate === 'committed' || record.fate === 'unknown') await work(record);
    });
    record.last = mine;
    await mine;
  }

  /** One statement commits by itself, as most applications do; what is held or rolled back is a transaction. */
  async #transact(
    what: string,
    { ending, holdMs }: { ending: 'commit' | 'rollback'; holdMs: number },
    write: (db: Queryable) => Promise<unknown>,
  ): Promise<Write> {
    const { pool } = this.#options;
    return this.writes.make(what, holdMs, async () => {
      if (ending === 'commit' && holdMs === 0) {
        await write(pool);
        return 'committed';
      }
      return withTransaction(pool, async (client) => {
        await write(client);
        await wait(holdMs);
        if (ending === 'rollback') throw new OnPurpose();
        return 'committed' as const;
      }).catch((error: unknown) => {
        if (error instanceof OnPurpose) return 'rolled back' as const;
        throw error;
      });
    });
  }

  async #request({ n, sync, times }: Request): Promise<void> {
    const record: RequestRecord = { key: `chaos-${n}`, rows: new Set(), unanswered: 0 };
    this.requests.push(record);
    const autoSyncId = sync === undefined ? nobodysSync(n) : syncId(sync);
    let sent = 0;
    for (let tries = 0; sent < times && tries < times + MOST_TRIES; tries += 1) {
      const row = await this.#post(record.key, { name: 'reminder_24h', payload: { autoSyncId } });
      if (row === undefined) {
        record.unanswered += 1;
        await wait(REQUEST_RETRY_MS);
      } else {
        record.rows.add(row);
        sent += 1;
      }
    }
  }

  /** The row that the answer names, or undefined when there was no good answer. */
  async #post(key: string, body: object): Promise<string | undefined> {
    try {
      const response = await fetch(`${this.#options.apiUrl}/api/jobs`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${this.#options.serviceKey}`,
          'content-type': 'application/json',
          'idempotency-key': key,
        },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
      const answer = (await response.json()) as { job?: { outboxId?: string } };
      if (!response.ok) this.#options.note({ event: 'request refused', key, status: response.status });
      return response.ok ? answer.job?.outboxId : undefined;
    } catch {
      return undefined;
    }
  }

  #recordOf(n: number): SyncRecord {
    const record = this.syncs[n];
    if (!record) throw new Error(`There is no auto sync ${n}`);
    return record;
  }
}

/** Rolls a transaction back that went well. */
class OnPurpose extends Error {}

const AT_ONCE = { ending: 'commit', holdMs: 0 } as const;

const FATES = { committed: 'committed', 'rolled back': 'absent', failed: 'absent', unknown: 'unknown' } as const;

function pauseOf(sync: number): StatusChange {
  return { kind: 'status', atMs: 0, sync, to: 'paused', ...AT_ONCE };
}

const INSERT_ORGANIZER = /* sql */ `
  with organizer as (
    insert into auth.users (id) values ($1) returning id
  )
  insert into public.profiles (id, full_name) select id, 'Organizer' from organizer`;

const INSERT_CREWS = /* sql */ `
  with crew as (
    insert into public.crews (id, owner_id, name) select id, $1, 'Crew' from unnest($2::uuid[]) as c (id)
  ),
  member as (
    select * from jsonb_to_recordset($3) as m (crew uuid, contact uuid, phone text)
  ),
  person as (
    insert into public.contacts (id, owner_id, name, phone) select contact, $1, 'Member', phone from member
  )
  insert into public.crew_members (crew_id, contact_id) select crew, contact from member`;

const INSERT_SYNCS = /* sql */ `
  insert into public.auto_syncs (id, organizer_id, crew_id, event_name, response_goal)
  select s.id, $1, s.crew, s.event, s.goal
  from jsonb_to_recordset($2) as s (id uuid, crew uuid, event text, goal public.auto_sync_response_goal)`;

const INSERT_ANSWER = /* sql */ `
  insert into public.auto_sync_responses (auto_sync_id, contact_id, response)
  select s.id, $2, 'yes' from public.auto_syncs s where s.id = $1`;

const SET_STATUS = /* sql */ `
  update public.auto_syncs set status = $2::public.auto_sync_status where id = $1 and status::text <> $2`;

const DELETE_SYNC = /* sql */ `
  delete from public.auto_syncs where id = $1`;

const FIND_SYNCS = /* sql */ `
  select id from public.auto_syncs where id = any ($1::uuid[])`;

import { setTimeout as wait } from 'node:timers/promises';
import { isConnectionError, type Queryable } from '@outbox/core';
import type { FamilyName } from '@outbox/jobs';
import { SAMPLE_ACCOUNT, SAMPLE_PROJECT } from '@outbox/simulators';
import { ORGANIZER } from './cast.ts';

/** What a family does besides the story, in one line. */
interface Act {
  family: FamilyName;
  /** Writes what the host application would write; returns the id that `outcome` asks for. */
  begin: (db: Queryable) => Promise<string>;
  /** The line, once it has happened. */
  outcome: (db: Queryable, id: string) => Promise<string | undefined>;
}

const LOOK_EVERY_MS = 200;

/** Plays the acts of these families side by side, and says the line of each as soon as it has happened. */
export async function playActs(
  db: Queryable,
  families: readonly FamilyName[],
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const wanted = acts.filter(({ family }) => families.includes(family));
  await Promise.all(wanted.map(async (act) => say(await play(act, db, signal))));
}

async function play({ begin, outcome }: Act, db: Queryable, signal: AbortSignal): Promise<string> {
  const id = await begin(db);
  for (;;) {
    const line = await outcome(db, id).catch((error: unknown) => {
      if (!isConnectionError(error)) throw error;
      return undefined;
    });
    if (line !== undefined) return line;
    await wait(LOOK_EVERY_MS, undefined, { signal });
  }
}

async function firstText(db: Queryable, sql: string, values: unknown[]): Promise<string | undefined> {
  const { rows } = await db.query<{ text: string | null }>(sql, values);
  return rows[0]?.text ?? undefined;
}

async function insertedId(db: Queryable, sql: string, values: unknown[]): Promise<string> {
  const id = await firstText(db, sql, values);
  if (id === undefined) throw new Error(`Nothing was inserted: ${sql}`);
  return id;
}

const GMB_ACCOUNT = '0de00000-0000-4000-8000-000000000b01';
const INTEGRATION = '0de00000-0000-4000-8000-000000000901';

const acts: Act[] = [
  {
    family: 'bubble',
    begin: (db) =>
      insertedId(
        db,
        /* sql */ `insert into public.users (email, first_name, last_name) values ($1, 'Nora', 'Lind') returning id::text as text`,
        [`nora+${Date.now().toString(36)}@example.com`],
      ),
    outcome: (db, id) =>
      firstText(
        db,
        /* sql */ `select '“Nora signed up”: copied to Bubble as ' || u.bubble_id as text from public.users u where u.id = $1`,
        [id],
      ),
  },
  {
    family: 'gmb',
    begin: async (db) => {
      await db.query(
        /* sql */ `
        insert into public.gmb_accounts (id, user_id, account_name, account_id, email)
        values ($1, $2, 'Maya''s Climbing Hall', $3, 'maya@example.com')
        on conflict do nothing`,
        [GMB_ACCOUNT, ORGANIZER, SAMPLE_ACCOUNT.name],
      );
      await db.query(
        /* sql */ `insert into public.oauth_tokens (account_id, refresh_token) values ($1, $2) on conflict do nothing`,
        [GMB_ACCOUNT, SAMPLE_ACCOUNT.refreshToken],
      );
      return insertedId(db, /* sql */ `select id::text as text from gmb.enqueue_sync($1, $2, 'full')`, [
        GMB_ACCOUNT,
        ORGANIZER,
      ]);
    },
    outcome: (db, id) =>
      firstText(
        db,
        /* sql */ `
        select format(
          '“%s”: %s locations and %s reviews synced from Google', a.account_name,
          (select count(*) from public.gmb_locations l where l.account_id = a.id and l.deleted_at is null),
          (select count(*) from public.gmb_reviews r where r.account_id = a.id and r.deleted_at is null)
        ) as text
        from gmb.sync_queue q
        join public.gmb_accounts a on a.id = q.account_id
        where q.id = $1 and q.status = 'succeeded'`,
        [id],
      ),
  },
  {
    family: 'golioth',
    begin: async (db) => {
      await db.query(
        /* sql */ `
        insert into public.integrations (id, user_id, name, project_id, api_key) values ($1, $2, 'Greenhouse', $3, $4)
        on conflict do nothing`,
        [INTEGRATION, ORGANIZER, SAMPLE_PROJECT.id, SAMPLE_PROJECT.apiKey],
      );
      await db.query(/* sql */ `delete from public.auto_sync_schedules where integration_id = $1`, [INTEGRATION]);
      const schedule = await insertedId(
        db,
        /* sql */ `
        insert into public.auto_sync_schedules (integration_id, frequency_minutes) values ($1, 15) returning id::text as text`,
        [INTEGRATION],
      );
      await db.query(/* sql */ `select golioth.run_now($1)`, [schedule]);
      return schedule;
    },
    outcome: (db, id) =>
      firstText(
        db,
        /* sql */ `
        select format(
          '“%s”: %s devices synced from Golioth, every 15 minutes', i.name,
          (select count(*) from public.devices d where d.integration_id = i.id and d.missing_since is null)
        ) as text
        from public.auto_sync_schedules s
        join public.integrations i on i.id = s.integration_id
        where s.id = $1 and i.last_synced_at >= s.last_run_at`,
        [id],
      ),
  },
];

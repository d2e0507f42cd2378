import { envInteger, SECOND } from '@outbox/core';
import { waitFor } from '@outbox/testing';
import { startGoogleSimulator, type GoogleSimulator } from '@outbox/simulators';
import { DatabaseError } from 'pg';
import { z } from 'zod';
import { defineCase, type Cell } from '../bench-case.ts';
import { withStage, type Stage } from '../stage.ts';

const settings = z.object({
  accounts: envInteger(10, 10_000).default(300).describe('Google Business Profile accounts that work'),
  broken: envInteger(1, 100).default(3).describe('Accounts for which Google answers 500'),
  rounds: envInteger(1, 20).default(5).describe('Rounds of each kind, alternating'),
  goal: envInteger(1, 100).default(10).describe('Per cent by which the broken accounts may slow the others down'),
});
type Settings = z.output<typeof settings>;

export const tenants = defineCase({
  name: 'tenants',
  description: 'Accounts that are broken at the provider beside those that work: how much slower the others become',
  settings,
  run: async (settings, say) => {
    const google = await startGoogleSimulator({ quotaPerMinute: 1_000_000 });
    try {
      return await withStage({ fsync: true }, (stage) => measure(stage, google, settings, say));
    } finally {
      await google.close();
    }
  },
});

async function measure(stage: Stage, google: GoogleSimulator, settings: Settings, say: (line: string) => void) {
  // A limit would pace every round alike, and hide what is measured.
  await stage.pool.query('update outbox.providers set requests_per_minute = null');
  await addAccounts(stage, google, settings);
  await Promise.all([
    stage.start('bridge', { FAMILIES: 'gmb' }),
    stage.start('worker', { FAMILIES: 'gmb', GOOGLE_SIMULATOR_URL: google.url }),
  ]);
  say('warming up');
  await runRound(stage, { broken: false });
  // Beside accounts that work: five failures in a row of several accounts, and nothing else, mean that Google is away.
  for (let n = 1; n <= 10 && (await countOpenBreakers(stage)) < settings.broken; n += 1) {
    say('until the breakers of the broken accounts are open');
    await runRound(stage, { broken: true });
  }

  const rounds: { alone: Round; beside: Round }[] = [];
  for (let n = 1; n <= settings.rounds; n += 1) {
    const alone = await runRound(stage, { broken: false });
    const beside = await runRound(stage, { broken: true });
    rounds.push({ alone, beside });
    say(
      `  round ${n}: ${(alone.ms / SECOND).toFixed(2)} s alone, ${(beside.ms / SECOND).toFixed(2)} s beside broken ones`,
    );
  }
  const ratios = rounds.map(({ alone, beside }) => beside.ms / alone.ms).sort((a, b) => a - b);
  const median = ratios[Math.floor(ratios.length / 2)] ?? Number.NaN;
  const open = await countOpenBreakers(stage);
  return {
    goals: [
      {
        text: `the others are not slower by more than ${settings.goal} % (median)`,
        met: median <= 1 + settings.goal / 100,
      },
      {
        text: 'the breakers of the broken accounts are open, and no other',
        met: open === settings.broken,
      },
    ],
    tables: [
      {
        title: 'Syncs of the accounts that work, all asked for at once:',
        columns: ['Round', 'Alone, s', 'Beside broken ones, s', 'Ratio', 'p50 alone, s', 'p50 beside, s'],
        rows: [...rounds.map(toRow), ['median', '', '', median.toFixed(3), '', '']],
      },
    ],
    notes: [
      `Ratios: min ${(ratios[0] ?? 0).toFixed(3)}, median ${median.toFixed(3)}, max ${(ratios.at(-1) ?? 0).toFixed(3)}. A broken ` +
        `account is asked to sync at once ten times a second, also while its sync waits for the breaker.`,
    ],
    servers: stage.servers,
  };
}

/** SQLSTATE of ours. */
const IS_RUNNING = 'OB003';

async function countOpenBreakers({ pool }: Stage): Promise<number> {
  const { rows } = await pool.query<{ open: number }>(
    "select count(*)::int as open from outbox.breakers where state <> 'closed'",
  );
  return rows[0]?.open ?? 0;
}

interface Round {
  /** From asking for the syncs of all accounts that work until the last of them was done. */
  ms: number;
  /** Of half of these syncs. */
  medianMs: number;
}

function toRow({ alone, beside }: { alone: Round; beside: Round }, at: number): Cell[] {
  const seconds = (ms: number) => (ms / SECOND).toFixed(2);
  const medians = [alone.medianMs, beside.medianMs].map(seconds);
  return [at + 1, seconds(alone.ms), seconds(beside.ms), (beside.ms / alone.ms).toFixed(3), ...medians];
}

const ADD_ACCOUNT = /* sql */ `
  with owner as (insert into auth.users default values returning id),
  account as (
    insert into gmb_accounts (user_id, account_name, account_id) select id, 'My Business', $1 from owner returning id
  )
  insert into oauth_tokens (account_id, refresh_token) select id, $2 from account`;

/** `accounts/broken-…` are those that Google does not serve. */
async function addAccounts({ pool }: Stage, google: GoogleSimulator, { accounts, broken }: Settings): Promise<void> {
  const names = [
    ...Array.from({ length: accounts }, (_, n) => `accounts/${n + 1}`),
    ...Array.from({ length: broken }, (_, n) => `accounts/broken-${n + 1}`),
  ];
  for (const [number, name] of names.entries()) {
    google.addAccount({ name, refreshToken: `refresh-${name}` });
    google.addLocation(name, {
      name: `locations/${number}`,
      title: 'Place',
      reviews: [{ reviewId: 'r1', comment: 'Good' }],
    });
    await pool.query(ADD_ACCOUNT, [name, `refresh-${name}`]);
  }
  google.fault({ kind: 'status', status: 500, match: { path: 'accounts/broken-' }, count: 1_000_000 });
}

const ASK = /* sql */ `
  insert into gmb.sync_queue (user_id, account_id, sync_type, priority)
  select a.user_id, a.id, 'full', 10
  from public.gmb_accounts a
  where (a.account_id like 'accounts/broken-%') = $1
    and not exists (
      select from outbox.jobs j where j.name = 'gmb_sync' and j.key = a.id::text and j.finished_at is null
    )`;

const DONE = /* sql */ `
  select
    count(*) filter (where j.finished_at is null)::int as open,
    extract(epoch from max(j.finished_at) - $1::timestamptz) * 1000 as ms,
    percentile_cont(0.5) within group (order by extract(epoch from j.finished_at - j.created_at)) * 1000 as "medianMs"
  from outbox.jobs j
  join public.gmb_accounts a on a.id::text = j.key
  where j.name = 'gmb_sync' and j.created_at >= $1::timestamptz and a.account_id not like 'accounts/broken-%'`;

/** Of the broken accounts that back off, or wait for the probe. */
const WAITING = /* sql */ `
  select j.id
  from outbox.jobs j
  join public.gmb_accounts a on a.id::text = j.key
  where j.name = 'gmb_sync' and j.state = 'published' and j.scheduled_at > now() and a.account_id like 'accounts/broken-%'`;

/** What users do whose account does not work. */
async function pressTheButton({ pool }: Stage): Promise<void> {
  await pool.query(ASK, [true]);
  const { rows } = await pool.query<{ id: string }>(WAITING);
  for (const { id } of rows) {
    await pool.query('select outbox.reschedule($1, now())', [id]).catch((error: unknown) => {
      if (!(error instanceof DatabaseError && error.code === IS_RUNNING)) throw error;
    });
  }
}

async function runRound(stage: Stage, { broken }: { broken: boolean }): Promise<Round> {
  const { pool } = stage;
  const { rows: clock } = await pool.query<{ now: string }>('select clock_timestamp()::text as now');
  await pool.query(ASK, [false]);
  let round: Round | undefined;
  await waitFor(
    async () => {
      if (broken) await pressTheButton(stage);
      const { rows } = await pool.query<{ open: number; ms: string; medianMs: string }>(DONE, [clock[0]?.now]);
      const [row] = rows;
      if (!row || row.open > 0) throw new Error(`${row?.open} syncs are open.`);
      round = { ms: Number(row.ms), medianMs: Number(row.medianMs) };
    },
    { timeoutMs: 120 * SECOND, intervalMs: 100 },
  );
  if (!round) throw new Error('The round did not end.');
  return round;
}

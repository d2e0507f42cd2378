import { syncId } from '../business/ids.ts';
import { ask, mustBeNone, told, type Finding, type World } from './finding.ts';

interface Effect {
  key: string;
  state: 'started' | 'confirmed' | 'rejected' | 'unknown';
  reference: string | null;
  to: string;
  /** Epoch milliseconds. */
  startedAt: number;
}

/** Nobody is texted twice, nobody is texted after a pause, nobody is left out; and the ledger says what happened. */
export async function findTexts(world: World): Promise<Finding[]> {
  const { pool, messages } = world;
  const { rows: effects } = await pool.query<Effect & Record<string, unknown>>(LIST_EFFECTS);
  const inState = (state: Effect['state']) => effects.filter((effect) => effect.state === state);
  const sent = new Set(messages.map(({ sid }) => sid));
  const confirmed = new Set(inState('confirmed').map(({ reference }) => reference));

  return [
    mustBeNone('people texted twice', findDoubled(messages.map(({ to }) => to))),
    mustBeNone(
      'texts that the ledger does not know',
      messages
        .filter(({ sid }) => !confirmed.has(sid))
        .map(({ to, sid, received_at }) => `${to} ${sid} ${received_at}`),
    ),
    mustBeNone(
      'texts in the ledger that nobody received',
      inState('confirmed')
        .filter(({ reference }) => !sent.has(reference ?? ''))
        .map(({ key }) => key),
    ),
    mustBeNone('texts begun after a pause had committed', findTooLate(world, effects)),
    mustBeNone(
      'texts undecided at the end',
      inState('started').map(({ key }) => key),
    ),
    told(
      'texts unknown (for a person to decide)',
      inState('unknown').map(({ key }) => key),
    ),
    mustBeNone('people left out (running, no answer, never texted)', await ask(pool, LEFT_OUT)),
    mustBeNone('texts not recorded as messages', await ask(pool, NOT_RECORDED)),
    mustBeNone('texts recorded twice', await ask(pool, RECORDED_TWICE)),
  ];
}

function findDoubled(numbers: string[]): string[] {
  const times = new Map<string, number>();
  for (const number of numbers) times.set(number, (times.get(number) ?? 0) + 1);
  return [...times].filter(([, count]) => count > 1).map(([number, count]) => `${number}, ${count} times`);
}

/** Both clocks are this machine's; an answer to a commit is heard after the commit, so there is no tolerance to give. */
function findTooLate({ business }: World, effects: Effect[]): string[] {
  const stops = new Map(business.syncs.map(({ sync, notRunning }) => [syncId(sync.n), notRunning]));
  return effects.flatMap(({ key, startedAt }) => {
    const stopped = stops
      .get(key.split(':')[1] ?? '')
      ?.find(({ from, until }) => from < startedAt && startedAt < until);
    return stopped ? [`${key} began ${Math.round(startedAt - stopped.from)} ms after`] : [];
  });
}

const LIST_EFFECTS = /* sql */ `
  select key, state, reference, request ->> 'to' as to, extract(epoch from started_at)::float8 * 1000 as "startedAt"
  from outbox.effects
  limit 10000000`;

/** Who answered later than the reminder went out was texted or not; both are right. */
const LEFT_OUT = /* sql */ `
  select s.id || ' ' || r.contact_id || coalesce(', reminded ' || s.last_reminder_sent_at, '') as example
  from public.auto_syncs s
  join reminders.recipients r on r.auto_sync_id = s.id
  where s.status = 'running'
    and r.phone is not null
    and not exists (
      select from outbox.effects e where e.key = 'reminder:' || s.id || ':' || r.contact_id || ':1'
    )
  limit 100000`;

const NOT_RECORDED = /* sql */ `
  select t.key as example
  from reminders.texts t
  join public.auto_syncs s on s.id = t.auto_sync_id
  where t.state = 'confirmed'
    and not exists (select from public.auto_sync_messages m where m.auto_sync_id = s.id and m.provider_sid = t.reference)
  limit 100000`;

const RECORDED_TWICE = /* sql */ `
  select m.auto_sync_id || ' ' || m.provider_sid as example
  from public.auto_sync_messages m
  group by m.auto_sync_id, m.provider_sid
  having count(*) > 1
  limit 100000`;

import {
  createPool,
  HOUR,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
  type Pool,
} from '@outbox/core';
import { startTwilioSimulator, type TwilioSimulator } from '@outbox/simulators';
import { createTestDatabase, handlerContext, type TestDatabase } from '@outbox/testing';
import { pauseCheck } from '../pause-checks/job.ts';
import { createCrew, insertAutoSync, respond, setStatus } from './auto-sync.fixture.ts';
import { handleSendReminder, type ReminderDependencies } from './handler.ts';
import { createTwilioSmsClient, type SmsClient } from './sms-client.ts';

const ANN = '+15558675301';
const BOB = '+15558675302';
const CAT = '+15558675303';
/** Numbers that the provider refuses: one person opted out; texts to that region are not switched on. */
const OPTED_OUT = '+15005550004';
const REGION_OFF = '+15005550003';

let database: TestDatabase;
/** Can do what the worker can, and no more. */
let worker: Pool;
let twilio: TwilioSimulator;

beforeAll(async () => {
  database = await createTestDatabase();
  const options = { applicationName: 'handler test', max: 3, onError: () => undefined };
  worker = createPool({ url: database.url, role: 'outbox_worker', ...options });
});
beforeEach(async () => void (twilio = await startTwilioSimulator()));
afterEach(() => twilio.close());
afterAll(async () => {
  await worker.end();
  await database.drop();
});

/** An auto sync of a crew with these phones, its job as the trigger wrote it, and a way to run that job's attempts. */
async function setup(phones: (string | null)[] = [ANN, BOB, CAT], wrapSms = (sms: SmsClient) => sms) {
  const { pool } = database;
  const crew = await createCrew(pool, phones);
  const autoSyncId = await insertAutoSync(pool, crew);
  const { rows } = await pool.query<{ id: string }>('select id from outbox.jobs where key = $1', [autoSyncId]);
  const account = { accountSid: `AC${'0'.repeat(32)}`, authToken: 'simulator', from: '+15005550006' };
  const sms = wrapSms(createTwilioSmsClient({ ...account, baseUrl: twilio.url, timeoutMs: 5 * SECOND }));
  const dependencies: ReminderDependencies = { sms, reminderRules: { tooLateMs: 24 * HOUR } };
  const context = handlerContext(worker, { jobId: rows[0]?.id ?? 'missing', dependencies });
  const attempt = (overrides: Partial<typeof context> = {}) =>
    handleSendReminder({ autoSyncId }, { ...context, ...overrides });
  return { pool, autoSyncId, crew, attempt, jobId: context.jobId };
}

/** What the ledger has of a text that an earlier job sent. */
async function addEffect(
  autoSyncId: string,
  { contactId, state, jobId = '1' }: { contactId: string | undefined; state: string; jobId?: string },
): Promise<void> {
  await database.pool.query(
    /* sql */ `
    insert into outbox.effects (key, job_id, run, provider, state, request, reference, reason, deadline_at, settled_at)
    values (
      'reminder:' || $1 || ':' || $2 || ':1', $4, 1, 'twilio', $3, '{"body": "Hello"}',
      case when $3 = 'confirmed' then 'resolved:1' end, case when $3 <> 'confirmed' then 'provider_cannot_tell' end,
      now(), now()
    )`,
    [autoSyncId, contactId, state, jobId],
  );
}

const texted = () => twilio.messages().map(({ to }) => to);

/** What the application sees of a reminder. */
async function recordOf(autoSyncId: string) {
  const { rows } = await database.pool.query<{ recorded: string[]; reminded: boolean; followUps: number }>(
    /* sql */ `
    select
      array(
        select c.phone
        from public.auto_sync_messages m join public.contacts c on c.id = m.contact_id
        where m.auto_sync_id = s.id
        order by c.phone
      ) as recorded,
      s.last_reminder_sent_at is not null as reminded,
      (select count(*)::int from outbox.jobs j where j.name = 'pause_check_48h' and j.key = s.id::text) as "followUps"
    from public.auto_syncs s
    where s.id = $1`,
    [autoSyncId],
  );
  return rows[0];
}

const NOTHING = { recorded: [], reminded: false, followUps: 0 };

describe('texting', () => {
  test('reaches exactly those who have not answered, once each, and is recorded', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup();
    const [ann, bob, cat] = crew.contactIds;
    await respond(pool, autoSyncId, [bob]);
    expect(await attempt()).toMatchObject({
      kind: 'done',
      result: {
        texts: [
          { contactId: ann, state: 'confirmed', reference: twilio.messages()[0]?.sid },
          { contactId: cat, state: 'confirmed', reference: twilio.messages()[1]?.sid },
        ],
        unreachable: [],
      },
    });
    expect(texted()).toEqual([ANN, CAT]);
    expect(twilio.messages()[0]?.body).toBe('Reminder: "Summer tour" is still waiting for your answer.');
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, CAT], reminded: true, followUps: 1 });
  });

  test('is not repeated when the job, or another one for the same auto sync, runs again after its end', async () => {
    const { autoSyncId, attempt } = await setup();
    await attempt();
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(await attempt({ jobId: '0' })).toEqual({ kind: 'skipped', reason: 'already_reminded' });
    expect(texted()).toEqual([ANN, BOB, CAT]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, BOB, CAT], reminded: true, followUps: 1 });
  });

  test('is not repeated by an attempt after one that died before it could record anything', async () => {
    const { autoSyncId, attempt } = await setup();
    const dying = attempt({ complete: () => Promise.reject(new Error('killed')) });
    await expect(dying).rejects.toThrow('killed');
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([ANN, BOB, CAT]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, BOB, CAT], reminded: true, followUps: 1 });
  });

  test('leaves out a member without a phone, who is named in the result', async () => {
    const { autoSyncId, crew, attempt } = await setup([null, BOB, '  ']);
    const [nobody, bob, blank] = crew.contactIds;
    expect(await attempt()).toMatchObject({
      kind: 'done',
      result: { texts: [{ contactId: bob, state: 'confirmed' }], unreachable: [nobody, blank] },
    });
    expect(texted()).toEqual([BOB]);
    expect(await recordOf(autoSyncId)).toMatchObject({ reminded: true, followUps: 1 });
  });

  test('stops at once when the run is aborted, with the reason of the abort', async () => {
    const abort = new AbortController();
    const { autoSyncId, attempt } = await setup([ANN, BOB], (sms) => ({
      ...sms,
      send: async (message, signal) => {
        await sms.send(message, signal);
        abort.abort(new Error('lease lost'));
        throw new Error('aborted');
      },
    }));
    await expect(attempt({ signal: abort.signal })).rejects.toThrow('lease lost');
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });
});

describe('skipping', () => {
  test.each(['paused', 'stopped', 'completed'] as const)('an auto sync that is %s by now', async (status) => {
    const { pool, autoSyncId, attempt } = await setup();
    await setStatus(pool, autoSyncId, status);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
    expect(texted()).toEqual([]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });

  test('one that was deleted', async () => {
    const { pool, autoSyncId, attempt } = await setup();
    await pool.query('delete from public.auto_syncs where id = $1', [autoSyncId]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
    expect(texted()).toEqual([]);
  });

  test('one whose reminder went out by other means', async () => {
    const { pool, autoSyncId, attempt } = await setup();
    await pool.query('update public.auto_syncs set last_reminder_sent_at = now() where id = $1', [autoSyncId]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'already_reminded' });
    expect(texted()).toEqual([]);
  });

  test('one that everybody has answered', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup();
    await respond(pool, autoSyncId, crew.contactIds);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'everyone_responded' });
    expect(texted()).toEqual([]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });

  test('one whose crew has no members', async () => {
    const { autoSyncId, attempt } = await setup([]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'everyone_responded' });
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });
});

describe('a recipient who cannot be texted', () => {
  test('now, does not keep the others waiting; the error is thrown, and the next attempt reaches that one alone', async () => {
    const { autoSyncId, attempt } = await setup();
    twilio.fault({ kind: 'status', status: 503, to: ANN });
    await expect(attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(texted()).toEqual([BOB, CAT]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);

    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([BOB, CAT, ANN]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, BOB, CAT], reminded: true, followUps: 1 });
  });

  test('now, counts for more than one whom no attempt can reach', async () => {
    const { autoSyncId, attempt } = await setup([REGION_OFF, BOB]);
    twilio.fault({ kind: 'status', status: 503, to: BOB });
    await expect(attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
    await expect(attempt()).rejects.toThrow(PermanentError);
    expect(texted()).toEqual([BOB]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [BOB], reminded: true, followUps: 1 });
  });

  test('by no attempt, does not keep the others from being recorded and followed up; redriven, it reaches that one alone', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup([ANN, REGION_OFF, CAT]);
    await expect(attempt()).rejects.toThrow(PermanentError);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, CAT], reminded: true, followUps: 1 });

    await pool.query('update public.contacts set phone = $2 where id = $1', [crew.contactIds[1], BOB]);
    expect(await attempt()).toMatchObject({ kind: 'done', result: { texts: [{}, {}, {}] } });
    expect(texted()).toEqual([ANN, CAT, BOB]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, BOB, CAT], reminded: true, followUps: 1 });
  });

  test('by the last attempt, does not keep the others from being recorded and followed up', async () => {
    const { autoSyncId, attempt } = await setup();
    twilio.fault({ kind: 'status', status: 503, to: BOB });
    await expect(attempt({ attempt: 3 })).rejects.toThrow(ProviderUnavailableError);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN, CAT], reminded: true, followUps: 1 });
  });

  test('because the provider wants everybody to wait, is the last who is tried: the rest wait as well', async () => {
    const { autoSyncId, attempt } = await setup();
    twilio.fault({ kind: 'status', status: 429, retryAfter: 7, to: BOB });
    await expect(attempt({ attempt: 3 })).rejects.toMatchObject({ name: 'RateLimitedError', retryAfterMs: 7 * SECOND });
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
    expect(await attempt({ attempt: 3 })).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([ANN, BOB, CAT]);
  });

  test('for good, does not stop the follow-up, and is in the result with the reason', async () => {
    const { autoSyncId, crew, attempt } = await setup([OPTED_OUT, BOB]);
    const [optedOut, bob] = crew.contactIds;
    expect(await attempt()).toMatchObject({
      kind: 'done',
      result: {
        texts: [
          { contactId: optedOut, state: 'rejected', reason: 'twilio_21610' },
          { contactId: bob, state: 'confirmed' },
        ],
      },
    });
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [BOB], reminded: true, followUps: 1 });
  });

  test('and is the only one: nobody was reminded, and nothing follows', async () => {
    const { autoSyncId, attempt } = await setup([OPTED_OUT, null]);
    expect(await attempt()).toMatchObject({ kind: 'done', result: { texts: [{ state: 'rejected' }] } });
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });
});

describe('between two attempts', () => {
  /** After an attempt that texted Ann and could not reach Bob. */
  async function annTextedBobNot() {
    const arranged = await setup([ANN, BOB]);
    twilio.fault({ kind: 'status', status: 503, to: BOB });
    await expect(arranged.attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(texted()).toEqual([ANN]);
    return arranged;
  }

  test('everybody answers: the text of the first attempt is recorded all the same, and the pause check follows', async () => {
    const { pool, autoSyncId, crew, attempt } = await annTextedBobNot();
    await respond(pool, autoSyncId, crew.contactIds);
    expect(await attempt()).toMatchObject({ kind: 'done', result: { texts: [{ contactId: crew.contactIds[0] }] } });
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: true, followUps: 1 });
  });

  test('who was texted answers, and who was not turns out to have opted out: one text is enough for the follow-up', async () => {
    const { pool, autoSyncId, crew, attempt } = await annTextedBobNot();
    await respond(pool, autoSyncId, [crew.contactIds[0]]);
    await pool.query('update public.contacts set phone = $2 where id = $1', [crew.contactIds[1], OPTED_OUT]);
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: true, followUps: 1 });
  });

  test('the contact who was texted is deleted: the attempt ends all the same', async () => {
    const { pool, autoSyncId, crew, attempt } = await annTextedBobNot();
    await pool.query('delete from public.contacts where id = $1', [crew.contactIds[0]]);
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([ANN, BOB]);
    expect(await recordOf(autoSyncId)).toMatchObject({ reminded: true, followUps: 1 });
  });

  test('the auto sync is paused: the text of the first attempt is recorded all the same, and nothing follows', async () => {
    const { pool, autoSyncId, attempt } = await annTextedBobNot();
    await setStatus(pool, autoSyncId, 'paused');
    await attempt();
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: false, followUps: 0 });
  });
});

describe('a text of an earlier job', () => {
  test('that a person found out about is recorded when the job runs again, and nobody is called', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup([ANN, BOB]);
    await pool.query('update public.auto_syncs set last_reminder_sent_at = now() where id = $1', [autoSyncId]);
    await addEffect(autoSyncId, { contactId: crew.contactIds[0], state: 'confirmed' });
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'already_reminded' });
    expect(texted()).toEqual([]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: true, followUps: 0 });
  });

  test('that nobody can tell is not sent again; the reminder completes and lists it', async () => {
    const { autoSyncId, crew, attempt } = await setup([ANN, BOB]);
    const [ann, bob] = crew.contactIds;
    await addEffect(autoSyncId, { contactId: ann, state: 'unknown' });
    expect(await attempt()).toMatchObject({
      kind: 'done',
      result: {
        texts: [
          { contactId: ann, state: 'unknown', reason: 'provider_cannot_tell' },
          { contactId: bob, state: 'confirmed' },
        ],
      },
    });
    expect(texted()).toEqual([BOB]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [BOB], reminded: true, followUps: 1 });
  });

  test('that nobody can tell is no reminder: alone, it is not followed up', async () => {
    const { autoSyncId, crew, attempt } = await setup([ANN]);
    await addEffect(autoSyncId, { contactId: crew.contactIds[0], state: 'unknown' });
    expect(await attempt()).toMatchObject({ kind: 'done', result: { texts: [{ state: 'unknown' }] } });
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });
});

describe('a reminder that is late', () => {
  test('by a day texts everybody', async () => {
    const { attempt } = await setup();
    expect(await attempt({ lateMs: 24 * HOUR })).toMatchObject({ kind: 'done', result: { tooLate: [] } });
    expect(texted()).toEqual([ANN, BOB, CAT]);
  });

  test('by more texts nobody, and says whom', async () => {
    const { autoSyncId, crew, attempt } = await setup([ANN, null]);
    expect(await attempt({ lateMs: 24 * HOUR + 1 })).toEqual({
      kind: 'skipped',
      reason: 'too_late',
      result: { texts: [], unreachable: [crew.contactIds[1]], tooLate: [crew.contactIds[0]] },
    });
    expect(texted()).toEqual([]);
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
  });

  test('by more than another setting says texts nobody either', async () => {
    const { attempt } = await setup();
    const late = { reminderRules: { tooLateMs: 1 * HOUR }, lateMs: 1 * HOUR + 1 };
    expect(await attempt(late)).toMatchObject({ kind: 'skipped', reason: 'too_late' });
  });

  test('and texted some in time ends with those: they are recorded and followed up', async () => {
    const { autoSyncId, crew, attempt } = await setup([ANN, BOB]);
    twilio.fault({ kind: 'status', status: 503, to: BOB });
    await expect(attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(await attempt({ lateMs: 25 * HOUR })).toMatchObject({
      kind: 'done',
      result: { texts: [{ contactId: crew.contactIds[0], state: 'confirmed' }], tooLate: [crew.contactIds[1]] },
    });
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: true, followUps: 1 });
  });

  test('and that everybody has answered meanwhile was not missed by anybody', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup();
    await respond(pool, autoSyncId, crew.contactIds);
    expect(await attempt({ lateMs: 25 * HOUR })).toEqual({ kind: 'skipped', reason: 'everyone_responded' });
  });
});

describe('quiet hours', () => {
  /** From an hour ago to an hour from now in the given zone. */
  function aroundNow(timeZone: string) {
    const hour = Number(new Intl.DateTimeFormat('en-GB', { timeZone, hour: '2-digit', hourCycle: 'h23' }).format());
    return { from: ((hour + 23) % 24) * 60, to: ((hour + 2) % 24) * 60 };
  }

  test('are waited out, in the time zone of the auto sync, without an attempt', async () => {
    const { pool, autoSyncId, attempt } = await setup([ANN]);
    await pool.query(`update public.auto_syncs set timezone = 'Asia/Kolkata' where id = $1`, [autoSyncId]);
    const rules = (zone: string) => ({ reminderRules: { tooLateMs: 24 * HOUR, quietHours: aroundNow(zone) } });
    const error: unknown = await attempt(rules('Asia/Kolkata')).catch((thrown: unknown) => thrown);
    if (!(error instanceof RateLimitedError)) throw error;
    expect(error.retryAfterMs).toBeGreaterThan(59 * 60 * SECOND);
    expect(error.retryAfterMs).toBeLessThanOrEqual(2 * HOUR);
    expect(texted()).toEqual([]);

    expect(await attempt(rules('America/Los_Angeles'))).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([ANN]);
  });
});

describe('a crew that is too large for one run', () => {
  const PHONES = Array.from({ length: 10 }, (_, n) => `+1555867540${n}`);

  afterEach(() => jest.restoreAllMocks());

  /** Each call to the provider takes `ms`, by the clock of this process; nobody waits. */
  function slowly(ms: number) {
    const now = performance.now.bind(performance);
    let passedMs = 0;
    jest.spyOn(performance, 'now').mockImplementation(() => now() + passedMs);
    return (sms: SmsClient): SmsClient => ({
      ...sms,
      send: (...call) => sms.send(...call).finally(() => void (passedMs += ms)),
    });
  }

  test('is finished by the next ones, which spend no attempt, and each member gets one text', async () => {
    const { autoSyncId, attempt } = await setup(PHONES, slowly(8 * SECOND));
    const reports: unknown[] = [];
    const run = () => attempt({ attempt: 3, progress: (value) => reports.push(value) });
    await expect(run()).rejects.toMatchObject({ retryAfterMs: 0, message: '6 people are left for the next run.' });
    expect(reports.at(-1)).toEqual({ texted: 4, of: 10 });
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
    await expect(run()).rejects.toMatchObject({ retryAfterMs: 0, message: '2 people are left for the next run.' });
    expect(reports.at(-1)).toEqual({ texted: 8, of: 10 });
    expect(await run()).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual(PHONES);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: PHONES, reminded: true, followUps: 1 });
  });

  test('spends an attempt when a run reaches nobody', async () => {
    const { attempt } = await setup(PHONES, slowly(11 * SECOND));
    twilio.fault({ kind: 'status', status: 503, count: 3 });
    await expect(attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(texted()).toEqual([]);
  });
});

describe('an auto sync that is paused while its members are texted', () => {
  test('keeps the message that went out, texts nobody else, and gets no follow-up', async () => {
    const { autoSyncId, attempt } = await setup([ANN, BOB], (sms) => ({
      ...sms,
      send: async (message, signal) => {
        const reference = await sms.send(message, signal);
        await setStatus(database.pool, autoSyncId, 'paused');
        return reference;
      },
    }));
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: false, followUps: 0 });
  });
});

describe('the follow-up', () => {
  test('is a pause check that pauseCheck can read, the organizer’s, due exactly 48 h after the reminder', async () => {
    const { pool, autoSyncId, crew, attempt } = await setup([ANN]);
    await attempt();
    const { rows } = await pool.query<Record<string, unknown>>(
      /* sql */ `
      select
        j.payload, j.key, j.owner_id, j.state, r.job_id is not null as ready,
        extract(epoch from j.scheduled_at - s.last_reminder_sent_at)::float8 * 1000 as wait
      from outbox.jobs j
      join public.auto_syncs s on s.id::text = j.key
      left join outbox.ready r on r.job_id = j.id
      where j.name = 'pause_check_48h' and s.id = $1`,
      [autoSyncId],
    );
    const payload = pauseCheck.payload.parse(rows[0]?.payload);
    expect(rows).toEqual([
      {
        ...{ payload: { autoSyncId }, key: pauseCheck.key(payload), owner_id: crew.organizerId },
        ...{ state: 'pending', ready: true, wait: 48 * HOUR },
      },
    ]);
  });

  test('and the notes about the texts are there together or not at all', async () => {
    const { pool, autoSyncId, attempt } = await setup([ANN]);
    await pool.query(`alter table outbox.jobs add constraint no_follow_up check (key <> '${autoSyncId}') not valid`);
    await expect(attempt()).rejects.toMatchObject({ constraint: 'no_follow_up' });
    await pool.query('alter table outbox.jobs drop constraint no_follow_up');
    expect(await recordOf(autoSyncId)).toEqual(NOTHING);
    expect(await attempt()).toMatchObject({ kind: 'done' });
    expect(texted()).toEqual([ANN]);
    expect(await recordOf(autoSyncId)).toEqual({ recorded: [ANN], reminded: true, followUps: 1 });
  });
});

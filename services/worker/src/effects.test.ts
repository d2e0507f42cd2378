import {
  createPool,
  EffectRejectedError,
  EffectUndecidedError,
  HOUR,
  JobCancelledError,
  LeaseLostError,
  MINUTE,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
  type EffectRequest,
  type PoolClient,
} from '@outbox/core';
import { createTestDatabase, waitFor } from '@outbox/testing';
import type { ClaimedJob } from './claim.ts';
import { ProviderGate } from './provider-gate.ts';
import { EffectLedger, hasOpenEffects } from './effects.ts';
import { addActive, addJobType, requestCancel, takeOver } from './worker.fixture.ts';

const LOCK_TIMEOUT_MS = 500;
const CALL_TIMEOUT_MS = 10 * SECOND;
/** A request that was under way when a call gave up has arrived, or never will, this long after the call's deadline. */
const SETTLE_MS = 15 * SECOND;

async function setup() {
  const database = await createTestDatabase();
  const { pool } = database;
  await addJobType(pool);
  const ledgerPool = createPool({
    url: database.url,
    applicationName: 'ledger',
    max: 4,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    onError: () => undefined,
  });
  const close = async () => {
    await ledgerPool.end();
    await database.drop();
  };
  return { pool, ledgerPool, close };
}

/** One database for the file: every test has jobs and keys of its own. */
let bundle: Awaited<ReturnType<typeof setup>>;
beforeAll(async () => {
  bundle = await setup();
});
afterAll(() => bundle.close());

const add = (request?: Parameters<typeof addActive>[1]) => addActive(bundle.pool, request);

function ledgerOf(job: ClaimedJob, signal = new AbortController().signal) {
  const calls = new ProviderGate(bundle.ledgerPool, 1).open(job, signal);
  return new EffectLedger(bundle.ledgerPool, job, { signal, calls });
}

let keys = 0;

/** A provider that a test plays: what it answers to calls and look-ups, and how often it was asked. */
function createEffect(plan: { call?: EffectRequest['call']; lookUp?: EffectRequest['lookUp']; timeoutMs?: number }) {
  const seen = { calls: 0, lookUps: [] as Date[] };
  const lookedFor: unknown[] = [];
  const request: EffectRequest = {
    key: `effect:${(keys += 1)}`,
    provider: 'test',
    request: { to: 'contact' },
    call: (signal) => {
      seen.calls += 1;
      return plan.call ? plan.call(signal) : Promise.resolve(`ref-${seen.calls}`);
    },
    lookUp: (asked, startedAt, signal) => {
      seen.lookUps.push(startedAt);
      lookedFor.push(asked);
      if (!plan.lookUp) throw new Error('nobody was to look this up');
      return plan.lookUp(asked, startedAt, signal);
    },
    timeoutMs: plan.timeoutMs ?? CALL_TIMEOUT_MS,
  };
  return { request, seen, plan, lookedFor };
}

interface EntryView {
  state: string;
  reference: string | null;
  reason: string | null;
  run: string;
  jobId: string;
  startedAt: Date;
  deadlineInMs: number;
  settledAt: Date | null;
}

async function readEntry({ key }: EffectRequest): Promise<EntryView | undefined> {
  const { rows } = await bundle.pool.query<EntryView & Record<string, unknown>>(
    `select state, reference, reason, run, job_id as "jobId", started_at as "startedAt", settled_at as "settledAt",
       extract(epoch from deadline_at - clock_timestamp())::float8 * 1000 as "deadlineInMs"
     from outbox.effects where key = $1`,
    [key],
  );
  return rows[0];
}

/** A call that was started by `job` and never settled, its deadline `deadlineInMs` from now. */
async function addStarted(
  { key, request }: EffectRequest,
  job: ClaimedJob,
  { deadlineInMs = -1 * MINUTE, ageMs = 2 * MINUTE } = {},
) {
  await bundle.pool.query(
    `insert into outbox.effects (key, job_id, run, provider, state, started_at, deadline_at, request)
     values ($1, $2, $3, 'test', 'started', clock_timestamp() - $4 * interval '1 ms',
       clock_timestamp() + $5 * interval '1 ms', $6)`,
    [key, job.id, job.run, ageMs, deadlineInMs, JSON.stringify(request)],
  );
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    (value) => {
      throw new Error(`resolved with ${JSON.stringify(value)}`);
    },
    (error: unknown) => error,
  );
}

/** Runs `work` while an open transaction has done `before`; `end` says how that transaction ends. */
async function besideTransaction<T>(
  before: (business: PoolClient) => Promise<unknown>,
  work: (end: (how: 'commit' | 'rollback') => Promise<void>) => Promise<T>,
) {
  const business = await bundle.pool.connect();
  try {
    await business.query('begin');
    await before(business);
    return await work(async (how) => void (await business.query(how)));
  } finally {
    await business.query('rollback');
    business.release();
  }
}

async function untilSomebodyWaitsForALock() {
  await waitFor(
    async () => {
      const { rowCount } = await bundle.pool.query(
        `select from pg_stat_activity
       where datname = current_database() and application_name = 'ledger' and wait_event_type = 'Lock'`,
      );
      expect(rowCount).toBe(1);
    },
    { intervalMs: 5 },
  );
}

describe('a call', () => {
  it('is made once and its reference kept', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    expect(await ledgerOf(job).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });
    expect(seen).toEqual({ calls: 1, lookUps: [] });
    expect(await readEntry(request)).toMatchObject({
      state: 'confirmed',
      reference: 'ref-1',
      run: job.run,
      jobId: job.id,
    });
  });

  it('is in the ledger, committed and with its deadline, before it is made', async () => {
    const effect = createEffect({});
    let during: EntryView | undefined;
    effect.plan.call = async () => {
      during = await readEntry(effect.request);
      return 'ref';
    };
    const job = await add();
    await ledgerOf(job).run(effect.request);
    expect(during).toMatchObject({ state: 'started', run: job.run, jobId: job.id, settledAt: null });
    expect(during?.deadlineInMs).toBeGreaterThan(CALL_TIMEOUT_MS - 5 * SECOND);
    expect(during?.deadlineInMs).toBeLessThanOrEqual(CALL_TIMEOUT_MS);
  });

  it('that was confirmed is not made again by another run or job', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    await ledgerOf(job).run(request);
    const later = [await takeOver(bundle.pool, job), await add()];
    for (const other of later) {
      expect(await ledgerOf(other).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });
    }
    expect(seen).toEqual({ calls: 1, lookUps: [] });
  });

  it('that the provider refused is rejected for good', async () => {
    const { request, seen } = createEffect({
      call: () => Promise.reject(new EffectRejectedError('not a mobile number', { code: 'landline' })),
    });
    const job = await add();
    expect(await ledgerOf(job).run(request)).toEqual({ state: 'rejected', reason: 'landline' });
    expect(await ledgerOf(await add()).run(request)).toEqual({ state: 'rejected', reason: 'landline' });
    expect(seen).toEqual({ calls: 1, lookUps: [] });
    expect(await readEntry(request)).toMatchObject({ state: 'rejected', reason: 'landline', reference: null });
  });

  it.each([
    new RateLimitedError('429', 1 * SECOND),
    new PermanentError('401'),
    new ProviderUnavailableError('connection refused', { ambiguous: false }),
  ])('that was certainly not carried out leaves no entry, and the next attempt makes it: $name', async (error) => {
    const effect = createEffect({ call: () => Promise.reject(error) });
    const ledger = ledgerOf(await add());
    expect(await failureOf(ledger.run(effect.request))).toBe(error);
    expect(ledger.undecided).toBe(false);
    expect(await readEntry(effect.request)).toBeUndefined();

    effect.plan.call = () => Promise.resolve('ref');
    expect(await ledgerOf(await add()).run(effect.request)).toEqual({ state: 'confirmed', reference: 'ref' });
    expect(effect.seen).toEqual({ calls: 2, lookUps: [] });
  });

  it.each([
    new ProviderUnavailableError('time-out', { ambiguous: true }),
    new TypeError('fetch failed'),
    new Error('503'),
  ])('that may have been carried out stays started: $message', async (error) => {
    const { request, seen } = createEffect({ call: () => Promise.reject(error) });
    const ledger = ledgerOf(await add());
    expect(await failureOf(ledger.run(request))).toBe(error);
    expect(ledger.undecided).toBe(true);
    expect(await readEntry(request)).toMatchObject({ state: 'started', settledAt: null });
    expect(seen.calls).toBe(1);
  });

  it('gets a signal that aborts at its time-out', async () => {
    const { request } = createEffect({
      timeoutMs: 60,
      call: (signal) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
    });
    expect(await failureOf(ledgerOf(await add()).run(request))).toMatchObject({ name: 'TimeoutError' });
    expect(await readEntry(request)).toMatchObject({ state: 'started' });
  });

  it('gets a signal that aborts with the run, with its reason', async () => {
    const run = new AbortController();
    const lost = new LeaseLostError('lost');
    const { request } = createEffect({
      call: (signal) => {
        run.abort(lost);
        signal.throwIfAborted();
        return Promise.resolve('not reached');
      },
    });
    expect(await failureOf(ledgerOf(await add(), run.signal).run(request))).toBe(lost);
    expect(await readEntry(request)).toMatchObject({ state: 'started' });
  });

  it('that was confirmed counts although the run lost the row meanwhile', async () => {
    const effect = createEffect({});
    const job = await add();
    effect.plan.call = async () => {
      await takeOver(bundle.pool, job);
      return 'ref';
    };
    expect(await ledgerOf(job).run(effect.request)).toEqual({ state: 'confirmed', reference: 'ref' });
    expect(await readEntry(effect.request)).toMatchObject({ state: 'confirmed', reference: 'ref' });
  });

  it('of one key by many jobs at once is made once', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    const jobs = await Promise.all(Array.from({ length: 8 }, () => add()));
    const outcomes = await Promise.allSettled(jobs.map((job) => ledgerOf(job).run(request)));
    expect(seen.calls).toBe(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') expect(outcome.value).toEqual({ state: 'confirmed', reference: 'ref-1' });
      else expect(outcome.reason).toBeInstanceOf(EffectUndecidedError);
    }
  });
});

describe('a call that was started and never settled', () => {
  it('is confirmed when the provider finds it, without another call', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve('found') });
    await addStarted(request, await add(), { deadlineInMs: 5 * SECOND });
    const startedAt = (await readEntry(request))?.startedAt;

    const ledger = ledgerOf(await add());
    expect(await ledger.run(request)).toEqual({ state: 'confirmed', reference: 'found' });

    expect(ledger.undecided).toBe(false);
    expect(seen).toEqual({ calls: 0, lookUps: [startedAt] });
    expect(await readEntry(request)).toMatchObject({ state: 'confirmed', reference: 'found' });
  });

  it.each([
    ['its deadline has not passed', 5 * SECOND],
    ['its deadline has just passed', -SETTLE_MS + 5 * SECOND],
  ])('is not repeated while it may be under way: not found, and %s', async (_title, deadlineInMs) => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    await addStarted(request, await add(), { deadlineInMs });

    const ledger = ledgerOf(await add());
    const error = await failureOf(ledger.run(request));

    if (!(error instanceof EffectUndecidedError)) throw error;
    // It asks again when nothing can be under way any more.
    expect(error.retryAfterMs).toBeGreaterThan(deadlineInMs + SETTLE_MS - 2 * SECOND);
    expect(error.retryAfterMs).toBeLessThanOrEqual(deadlineInMs + SETTLE_MS);
    expect(ledger.undecided).toBe(true);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toMatchObject({ state: 'started' });
  });

  it('is made again, once, when it is not found and nothing can be under way', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    await addStarted(request, await add(), { deadlineInMs: -SETTLE_MS - 100 });
    const job = await add();

    expect(await ledgerOf(job).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });
    expect(await ledgerOf(await add()).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });

    expect(seen.calls).toBe(1);
    expect(await readEntry(request)).toMatchObject({ state: 'confirmed', run: job.run, jobId: job.id });
  });

  it('has a new start and deadline while it is made again', async () => {
    const effect = createEffect({ lookUp: () => Promise.resolve(undefined) });
    const before = await add();
    await addStarted(effect.request, before);
    let during: EntryView | undefined;
    effect.plan.call = async () => {
      during = await readEntry(effect.request);
      return 'ref';
    };
    const job = await add();
    await ledgerOf(job).run(effect.request);
    expect(during).toMatchObject({ state: 'started', run: job.run });
    expect(during?.deadlineInMs).toBeGreaterThan(CALL_TIMEOUT_MS - 5 * SECOND);
  });

  it('is made again by one of many runs that all find nothing', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    await addStarted(request, await add());
    const jobs = await Promise.all(Array.from({ length: 8 }, () => add()));
    const outcomes = await Promise.allSettled(jobs.map((job) => ledgerOf(job).run(request)));
    expect(seen.calls).toBe(1);
    expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0);
  });

  it.each([
    ['throws', () => Promise.reject(new ProviderUnavailableError('503', { ambiguous: true }))],
    ['is rate limited', () => Promise.reject(new RateLimitedError('429', 1))],
    ['is broken', () => Promise.reject(new Error('odd answer'))],
  ] as const)('is asked for again later when the look-up %s, never called meanwhile', async (_title, lookUp) => {
    const { request, seen } = createEffect({ lookUp });
    await addStarted(request, await add(), { ageMs: 1 * HOUR - 5 * SECOND });
    expect(await failureOf(ledgerOf(await add()).run(request))).toBeInstanceOf(EffectUndecidedError);
    expect(seen).toMatchObject({ calls: 0, lookUps: [expect.any(Date)] });
    expect(await readEntry(request)).toMatchObject({ state: 'started' });
  });

  it('is unknown after an hour of failed look-ups, and never called again', async () => {
    const effect = createEffect({ lookUp: () => Promise.reject(new Error('503')) });
    await addStarted(effect.request, await add(), { ageMs: 1 * HOUR + 1 * SECOND });
    const unknown = { state: 'unknown', reason: 'provider_cannot_tell' };

    const ledger = ledgerOf(await add());
    expect(await ledger.run(effect.request)).toEqual(unknown);
    expect(ledger.undecided).toBe(false);

    effect.plan.lookUp = () => Promise.resolve(undefined);
    expect(await ledgerOf(await add()).run(effect.request)).toEqual(unknown);
    expect(effect.seen).toMatchObject({ calls: 0, lookUps: [expect.any(Date)] });
    expect(await readEntry(effect.request)).toMatchObject({ ...unknown, settledAt: expect.any(Date) as Date });
  });

  it('is confirmed when it is found after more than an hour', async () => {
    const { request } = createEffect({ lookUp: () => Promise.resolve('found') });
    await addStarted(request, await add(), { ageMs: 5 * HOUR });
    expect(await ledgerOf(await add()).run(request)).toEqual({ state: 'confirmed', reference: 'found' });
  });

  it.each([
    // Not its to forget: the other run may have found it.
    ['another run took its row over', (job: ClaimedJob) => takeOver(bundle.pool, job), 'started'],
    ['its job was cancelled', (job: ClaimedJob) => requestCancel(bundle.pool, job.id), undefined],
  ])('is not made again by a run when %s during the look-up', async (_title, meanwhile, state) => {
    const effect = createEffect({});
    const job = await add();
    await addStarted(effect.request, await add());
    effect.plan.lookUp = async () => {
      await meanwhile(job);
      return undefined;
    };
    await failureOf(ledgerOf(job).run(effect.request));
    expect(effect.seen.calls).toBe(0);
    expect((await readEntry(effect.request))?.state).toBe(state);
  });
});

describe('a call of an earlier attempt', () => {
  it('is looked for as it was made, whatever would be asked for now', async () => {
    const { request, lookedFor } = createEffect({ lookUp: () => Promise.resolve('found') });
    await addStarted(request, await add());
    await ledgerOf(await add()).run({ ...request, request: { to: 'contact', body: 'renamed since' } });
    expect(lookedFor).toEqual([{ to: 'contact' }]);
  });

  it('is settled without making another: confirmed when found, forgotten when it never arrived', async () => {
    const [sent, lost, none] = [
      createEffect({ lookUp: () => Promise.resolve('found') }),
      createEffect({ lookUp: () => Promise.resolve(undefined) }),
      createEffect({}),
    ];
    await addStarted(sent.request, await add());
    await addStarted(lost.request, await add());
    const ledger = ledgerOf(await add());
    expect(await ledger.settle(sent.request)).toEqual({ state: 'confirmed', reference: 'found' });
    expect(await ledger.settle(lost.request)).toBeUndefined();
    expect(await ledger.settle(none.request)).toBeUndefined();
    expect([sent.seen.calls, lost.seen.calls, none.seen.calls]).toEqual([0, 0, 0]);
    expect(await readEntry(lost.request)).toBeUndefined();
    expect(ledger.undecided).toBe(false);
  });

  it('stays open when the look-up is refused for good: that says nothing about the call', async () => {
    const { request } = createEffect({ lookUp: () => Promise.reject(new PermanentError('account closed')) });
    const job = await add();
    await addStarted(request, job);
    expect(await failureOf(ledgerOf(await takeOver(bundle.pool, job)).settle(request))).toBeInstanceOf(
      EffectUndecidedError,
    );
    expect(await hasOpenEffects(bundle.pool, job.id)).toBe(true);
  });
});

describe('a run whose attempts are spent', () => {
  const spent = { attempt: 4, maxAttempts: 3 };

  it('decides what is open', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve('found') });
    await addStarted(request, await add());
    expect(await ledgerOf(await add(spent)).run(request)).toEqual({ state: 'confirmed', reference: 'found' });
    expect(seen.calls).toBe(0);
  });

  it('makes no call again, and forgets the one that provably never arrived', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    await addStarted(request, await add());
    const ledger = ledgerOf(await add(spent));
    expect(await failureOf(ledger.run(request))).toMatchObject({ code: 'attempts_spent' });
    expect(ledger.undecided).toBe(false);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it('starts no new call', async () => {
    const { request, seen } = createEffect({});
    expect(await failureOf(ledgerOf(await add(spent)).run(request))).toMatchObject({ code: 'attempts_spent' });
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });
});

describe('undecided', () => {
  it('is true while a call is under way, false once it is settled', async () => {
    const effect = createEffect({});
    const ledger = ledgerOf(await add());
    let during: boolean | undefined;
    effect.plan.call = () => {
      during = ledger.undecided;
      return Promise.resolve('ref');
    };
    await ledger.run(effect.request);
    expect(during).toBe(true);
    expect(ledger.undecided).toBe(false);
  });

  it('stays while one of several calls may have been carried out', async () => {
    const ambiguous = createEffect({ call: () => Promise.reject(new Error('time-out')) });
    const decided = createEffect({ lookUp: () => Promise.resolve('found') });
    await addStarted(decided.request, await add());
    const ledger = ledgerOf(await add());

    await failureOf(ledger.run(ambiguous.request));
    await ledger.run(decided.request);

    expect(await readEntry(ambiguous.request)).toMatchObject({ state: 'started' });
    expect(ledger.undecided).toBe(true);
  });
});

describe('the fence', () => {
  it('a run that another took over from cannot start a call', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    await takeOver(bundle.pool, job);
    expect(await failureOf(ledgerOf(job).run(request))).toBeInstanceOf(LeaseLostError);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it.each(['published', 'pending', 'completed'])('a run whose row is %s cannot start a call', async (state) => {
    const { request, seen } = createEffect({});
    const job = await add();
    await bundle.pool.query(
      `update outbox.jobs
       set state = $2, locked_until = null, finished_at = case when $2 = 'completed' then now() end
       where id = $1`,
      [job.id, state],
    );
    expect(await failureOf(ledgerOf(job).run(request))).toBeInstanceOf(LeaseLostError);
    expect(seen.calls).toBe(0);
  });

  it('an aborted run starts nothing', async () => {
    const { request, seen } = createEffect({});
    const reason = new LeaseLostError('ended');
    expect(await failureOf(ledgerOf(await add(), AbortSignal.abort(reason)).run(request))).toBe(reason);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it('an aborted run is not told of earlier outcomes either', async () => {
    const { request } = createEffect({});
    await ledgerOf(await add()).run(request);
    const reason = new LeaseLostError('ended');
    expect(await failureOf(ledgerOf(await add(), AbortSignal.abort(reason)).run(request))).toBe(reason);
  });

  it('a run that is aborted while the ledger is written makes no call and leaves no entry', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    const run = new AbortController();
    await besideTransaction(
      (business) => business.query('select from outbox.jobs where id = $1 for update', [job.id]),
      async (end) => {
        const failed = failureOf(ledgerOf(job, run.signal).run(request));
        await untilSomebodyWaitsForALock();
        run.abort(new LeaseLostError('ended'));
        await end('rollback');
        expect(await failed).toBeInstanceOf(LeaseLostError);
      },
    );
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it('a call whose time was used up by the ledger is not made', async () => {
    const { request, seen } = createEffect({ timeoutMs: 20 });
    const job = await add();
    await besideTransaction(
      (business) => business.query('select from outbox.jobs where id = $1 for update', [job.id]),
      async (end) => {
        const failed = failureOf(ledgerOf(job).run(request));
        await untilSomebodyWaitsForALock();
        const started = performance.now();
        await waitFor(() => expect(performance.now() - started).toBeGreaterThan(25));
        await end('rollback');
        expect(await failed).toBeInstanceOf(EffectUndecidedError);
      },
    );
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });
});

describe('a cancellation', () => {
  it('ends a call that provably never arrived: it is forgotten, and nothing is left to decide', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    const job = await add();
    await addStarted(request, job);
    await requestCancel(bundle.pool, job.id);
    const ledger = ledgerOf(await takeOver(bundle.pool, job));

    // Anything else would bring the job back for ever: its call may not be made again, and it may not end before.
    expect(await failureOf(ledger.run(request))).toBeInstanceOf(JobCancelledError);

    expect(ledger.undecided).toBe(false);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it('keeps what the provider did: a call that it finds is confirmed', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve('found') });
    const job = await add();
    await addStarted(request, job);
    await requestCancel(bundle.pool, job.id);
    const ledger = ledgerOf(await takeOver(bundle.pool, job));
    expect(await ledger.run(request)).toEqual({ state: 'confirmed', reference: 'found' });
    expect(ledger.undecided).toBe(false);
    expect(seen.calls).toBe(0);
  });

  it('that has committed keeps every call from starting', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    await requestCancel(bundle.pool, job.id);
    expect(await failureOf(ledgerOf(job).run(request))).toBeInstanceOf(JobCancelledError);
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });

  it.each([
    ['commits: no call', 'commit'],
    ['is rolled back: the call is made', 'rollback'],
  ] as const)('in an open transaction is waited for, and %s', async (_title, how) => {
    const { request, seen } = createEffect({});
    const job = await add();
    const outcome = await besideTransaction(
      (business) => requestCancel(business, job.id),
      async (end) => {
        const running = ledgerOf(job)
          .run(request)
          .catch((error: unknown) => error);
        await untilSomebodyWaitsForALock();
        expect(seen.calls).toBe(0);
        await end(how);
        return running;
      },
    );
    if (how === 'commit') {
      expect(outcome).toBeInstanceOf(JobCancelledError);
      expect(seen.calls).toBe(0);
      expect(await readEntry(request)).toBeUndefined();
    } else {
      expect(outcome).toEqual({ state: 'confirmed', reference: 'ref-1' });
    }
  });

  it('that stays open longer than the lock time-out puts the call off', async () => {
    const { request, seen } = createEffect({});
    const job = await add();
    await besideTransaction(
      (business) => requestCancel(business, job.id),
      async () => {
        const error = await failureOf(ledgerOf(job).run(request));
        if (!(error instanceof EffectUndecidedError)) throw error;
        expect(error.retryAfterMs).toBe(1 * SECOND);
      },
    );
    expect(seen.calls).toBe(0);
    expect(await readEntry(request)).toBeUndefined();
  });
});

describe('after the database was restored to an older state', () => {
  /** A job that was open then. Nothing is known of the time from three hours ago until `restoredMsAgo`. */
  async function addOpenThen({ restoredMsAgo = 5 * MINUTE } = {}): Promise<ClaimedJob> {
    const { rows } = await bundle.pool.query<{ from: Date }>(
      `update outbox.meta
       set restored_from = date_trunc('second', clock_timestamp()) - interval '3 hours',
         restored_at = clock_timestamp() - $1 * interval '1 ms'
       returning restored_from as "from"`,
      [restoredMsAgo],
    );
    return { ...(await add()), callsUnknownSince: rows[0]?.from ?? null };
  }

  it('a call that the ledger does not know is looked for since then, and not made when it is found', async () => {
    const { request, seen, lookedFor } = createEffect({ lookUp: () => Promise.resolve('found') });
    const job = await addOpenThen();

    expect(await ledgerOf(job).run(request)).toEqual({ state: 'confirmed', reference: 'found' });

    expect(seen).toEqual({ calls: 0, lookUps: [job.callsUnknownSince] });
    expect(lookedFor).toEqual([{ to: 'contact' }]);
    expect(await readEntry(request)).toMatchObject({ state: 'confirmed', reference: 'found', run: job.run });
    expect(await ledgerOf(await add()).run(request)).toEqual({ state: 'confirmed', reference: 'found' });
  });

  it('a call that was not made in the lost time is made once, with a start of its own', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    const job = await addOpenThen();
    expect(await ledgerOf(job).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });
    expect(seen).toEqual({ calls: 1, lookUps: [job.callsUnknownSince] });
    const startedAt = (await readEntry(request))?.startedAt ?? new Date(0);
    expect(startedAt.getTime()).toBeGreaterThan(Date.now() - 1 * MINUTE);
  });

  it('a call that may have been under way when work went on is waited for, then made', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.resolve(undefined) });
    const job = await addOpenThen({ restoredMsAgo: 0 });
    const undecided = await failureOf(ledgerOf(job).run(request));
    expect(undecided).toBeInstanceOf(EffectUndecidedError);
    expect((undecided as EffectUndecidedError).retryAfterMs).toBeGreaterThan(CALL_TIMEOUT_MS + SETTLE_MS - 2 * SECOND);
    expect(seen.calls).toBe(0);

    await bundle.pool.query(
      "update outbox.effects set deadline_at = deadline_at - interval '1 minute' where key = $1",
      [request.key],
    );
    const next = { ...(await takeOver(bundle.pool, job)), callsUnknownSince: job.callsUnknownSince };
    expect(await ledgerOf(next).run(request)).toEqual({ state: 'confirmed', reference: 'ref-1' });
    expect(seen.calls).toBe(1);
  });

  it('a provider that cannot tell is asked for an hour from the first time, then the call is unknown', async () => {
    const { request, seen } = createEffect({ lookUp: () => Promise.reject(new Error('503')) });
    const job = await addOpenThen();
    const endRun = (agoMs: number) =>
      bundle.pool.query(
        `insert into outbox.attempts (job_id, run, attempt, started_at, outcome)
         values ($1, $2, 1, clock_timestamp() - $3 * interval '1 ms', 'parked')
         on conflict (job_id, run) do update set started_at = excluded.started_at`,
        [job.id, job.run, agoMs],
      );
    expect(await failureOf(ledgerOf(job).run(request))).toBeInstanceOf(EffectUndecidedError);

    await endRun(50 * MINUTE);
    const next = { ...(await takeOver(bundle.pool, job)), callsUnknownSince: job.callsUnknownSince };
    expect(await failureOf(ledgerOf(next).run(request))).toBeInstanceOf(EffectUndecidedError);

    await endRun(61 * MINUTE);
    expect(await ledgerOf(next).run(request)).toEqual({ state: 'unknown', reason: 'provider_cannot_tell' });
    expect(seen).toEqual({ calls: 0, lookUps: Array.from({ length: 3 }, () => job.callsUnknownSince) });
  });

  it.each([
    ['whose row another run took over', (job: ClaimedJob) => takeOver(bundle.pool, job), LeaseLostError],
    ['that was cancelled', (job: ClaimedJob) => requestCancel(bundle.pool, job.id), JobCancelledError],
  ])('a run %s asks nothing and writes nothing', async (_title, before, expected) => {
    const { request, seen } = createEffect({});
    const job = await addOpenThen();
    await before(job);
    expect(await failureOf(ledgerOf(job).run(request))).toBeInstanceOf(expected);
    expect(seen).toEqual({ calls: 0, lookUps: [] });
    expect(await readEntry(request)).toBeUndefined();
  });
});

import {
  EffectUndecidedError,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  type OutboxError,
} from '@outbox/core';
import { captureLogs, createTestDatabase } from '@outbox/testing';
import { createClaim, type ClaimedJob, type Verdict } from './claim.ts';
import { endingOfError, type Ending } from './ending.ts';
import { createFinish } from './finish.ts';
import { ProviderGate } from './provider-gate.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, readAttempts, readRow } from './worker.fixture.ts';

const THRESHOLD = 3;

async function setup() {
  const database = await createTestDatabase();
  const { pool } = database;
  const backend = { readCounter: () => Promise.resolve(undefined) };
  const restores = new RestoreWatch({ db: pool, backend, log: captureLogs().log });
  const claim = createClaim({ pool, workerId: 'worker', leaseMs: 15_000, maxBatch: 200, restores });
  const gate = new ProviderGate(pool, 200);
  const finish = createFinish(pool, 200);
  return { pool, claim, gate, finish, close: () => database.drop() };
}

let bundle: Awaited<ReturnType<typeof setup>>;
beforeAll(async () => {
  bundle = await setup();
});
afterAll(() => bundle.close());

let names = 0;

const down = new ProviderUnavailableError('503', { ambiguous: false });

/** A provider and a job that calls it, nobody else's. */
async function addProvider({ perMinute }: { perMinute?: number } = {}) {
  const { pool, gate, claim, finish } = bundle;
  const name = `provider-${(names += 1)}`;
  await pool.query('insert into outbox.providers (name, breaker_threshold, requests_per_minute) values ($1, $2, $3)', [
    name,
    THRESHOLD,
    perMinute,
  ]);
  const jobName = `job-of-${name}`;
  await addJobType(pool, { name: jobName, provider: name });
  const add = (providerTenant?: string) =>
    addRow(pool, { name: jobName, ...(providerTenant === undefined ? {} : { providerTenant }) });
  const deliver = (id: string) => claim({ id, generation: 1 });
  /** One run: claims the row, makes one call and ends the row, as a worker does. Gives the ending. */
  const run = async (id: string, call: () => Promise<unknown>): Promise<Ending> => {
    const job = jobOf(await deliver(id));
    const calls = gate.open(job, new AbortController().signal);
    const { ending, error } = await calls
      .turn()
      .then(() => calls.make(call))
      .then(
        () => ({ ending: { kind: 'completed', result: null } as Ending, error: undefined }),
        (thrown: unknown) => ({ ending: endingOfError(thrown, job), error: thrown }),
      );
    const judged = await calls.judge(ending, error);
    if (judged.kind === 'lost') throw new Error('lost');
    await finish({ job, ending: judged });
    return judged;
  };
  const fails = () => Promise.reject(down);
  const answers = () => Promise.resolve('fine');
  const goBy = (seconds: number) =>
    pool.query(`update outbox.breakers set probe_at = probe_at - $2 * interval '1 s' where provider = $1`, [
      name,
      seconds,
    ]);
  /** Until it is away. */
  const bringDown = async (tenant?: string) => {
    const ids = [];
    for (let failure = 1; failure <= THRESHOLD; failure += 1) ids.push(await add(tenant));
    for (const id of ids) await run(id, fails);
    return ids;
  };
  return { name, add, deliver, run, fails, answers, goBy, bringDown };
}

function jobOf(verdict: Verdict): ClaimedJob {
  if (verdict.kind !== 'run') throw new Error(`expected a run, not ${JSON.stringify(verdict)}`);
  return verdict.job;
}

const read = (id: string) => readRow(bundle.pool, id);

it('while few runs fail, each failure costs its attempt, as anywhere', async () => {
  const provider = await addProvider();
  const id = await provider.add();
  expect(await provider.run(id, provider.fails)).toMatchObject({ kind: 'retried' });
  expect(await read(id)).toMatchObject({ state: 'published', attempt: 1 });
});

it('a provider that is away spends nobody’s attempts: not those of the streak, nor of who comes later', async () => {
  const provider = await addProvider();
  const [late] = [await provider.add()];
  const inHand = jobOf(await provider.deliver(late));
  const ids = await provider.bringDown();
  for (const id of ids) expect(await read(id)).toMatchObject({ state: 'published', attempt: 0 });

  const calls = bundle.gate.open(inHand, new AbortController().signal);
  await calls.make(provider.fails).catch(() => undefined);
  const ending = await calls.judge(endingOfError(down, inHand), down);
  expect(ending).toMatchObject({ kind: 'parked', reason: 'breaker_open', error: down });
});

it('the run that opens the breaker says so in its attempt', async () => {
  const provider = await addProvider();
  const ids = await provider.bringDown();
  const attempts = await readAttempts(bundle.pool, ids[THRESHOLD - 1] ?? '');
  expect(attempts).toMatchObject([{ outcome: 'parked', reason: 'breaker_open' }]);
});

it('a job of a provider that is away is parked by the claim, visibly, with its attempts', async () => {
  const provider = await addProvider();
  await provider.bringDown();
  const id = await provider.add();
  const verdict = await provider.deliver(id);
  expect(verdict).toMatchObject({ kind: 'later', reason: 'parked' });
  const row = await read(id);
  expect(row).toMatchObject({ state: 'published', attempt: 0, reason: 'breaker_open' });
  expect(verdict.kind === 'later' && Math.abs(verdict.atMs - row.dueMs)).toBeLessThan(2);
  expect(row.dueMs).toBeGreaterThan(row.nowMs + 55_000);
});

it('one probe brings everybody back', async () => {
  const provider = await addProvider();
  await provider.bringDown();
  await provider.goBy(61);
  const [probe, other] = [await provider.add(), await provider.add()];
  const job = jobOf(await provider.deliver(probe));
  expect(job.probing).toBe(true);
  expect(await provider.deliver(other)).toMatchObject({ kind: 'later', reason: 'parked' });

  const calls = bundle.gate.open(job, new AbortController().signal);
  await calls.make(provider.answers);
  await calls.judge({ kind: 'completed', result: null }, undefined);

  expect(jobOf(await provider.deliver(await provider.add()))).toMatchObject({ probing: false });
  await bundle.pool.query(`update outbox.jobs set scheduled_at = now() where id = $1`, [other]);
  expect(jobOf(await provider.deliver(other))).toMatchObject({ attempt: 1 });
  expect(await read(other)).toMatchObject({ reason: null });
});

it('a probe that called nobody leaves the probing to the next', async () => {
  const provider = await addProvider();
  await provider.bringDown();
  await provider.goBy(61);
  const job = jobOf(await provider.deliver(await provider.add()));
  const calls = bundle.gate.open(job, new AbortController().signal);
  await calls.judge({ kind: 'skipped', reason: 'nothing_to_do', result: null }, undefined);
  expect(jobOf(await provider.deliver(await provider.add()))).toMatchObject({ probing: true });
});

it('a broken account stops its own jobs and nobody else’s', async () => {
  const provider = await addProvider();
  await provider.bringDown('ada');
  expect(await provider.deliver(await provider.add('ada'))).toMatchObject({ kind: 'later', reason: 'parked' });
  expect(jobOf(await provider.deliver(await provider.add('ben')))).toMatchObject({ probing: false });
});

it.each<[string, OutboxError]>([
  ['a refusal for good', new PermanentError('400')],
  ['a limit', new RateLimitedError('429', 1_000)],
])('%s is an answer: it ends a streak', async (_what, error) => {
  const provider = await addProvider();
  for (let failure = 1; failure < THRESHOLD; failure += 1) await provider.run(await provider.add(), provider.fails);
  await provider.run(await provider.add(), () => Promise.reject(error));
  expect(await provider.run(await provider.add(), provider.fails)).toMatchObject({ kind: 'retried' });
});

it('a mistake of our own says nothing about the provider', async () => {
  const provider = await addProvider();
  for (let failure = 1; failure < THRESHOLD; failure += 1) await provider.run(await provider.add(), provider.fails);
  await provider.run(await provider.add(), () => Promise.reject(new TypeError('undefined is not a function')));
  expect(await provider.run(await provider.add(), provider.fails)).toMatchObject({ kind: 'parked' });
});

it('nor does a call that we gave up ourselves', async () => {
  const provider = await addProvider();
  const job = jobOf(await provider.deliver(await provider.add()));
  const stop = new AbortController();
  const calls = bundle.gate.open(job, stop.signal);
  stop.abort();
  await calls.make(provider.fails).catch(() => undefined);
  expect(await calls.judge({ kind: 'handed_back' }, new Error('stopping'))).toEqual({ kind: 'handed_back' });
  const { rows } = await bundle.pool.query('select 1 from outbox.breakers where provider = $1', [provider.name]);
  expect(rows).toEqual([]);
});

it('a provider that cannot be asked what became of a call counts as away, too', async () => {
  const provider = await addProvider();
  for (let failure = 1; failure <= THRESHOLD; failure += 1) {
    const job = jobOf(await provider.deliver(await provider.add()));
    const calls = bundle.gate.open(job, new AbortController().signal);
    await calls.make(provider.fails).catch(() => undefined);
    const undecided = new EffectUndecidedError('cannot tell', 30_000);
    await calls.judge(endingOfError(undecided, job), undecided);
  }
  expect(await provider.deliver(await provider.add())).toMatchObject({ kind: 'later', reason: 'parked' });
});

it('one worker’s 429 holds the jobs of all, and the calls of those that run', async () => {
  const provider = await addProvider();
  const inHand = jobOf(await provider.deliver(await provider.add()));
  const limited = new RateLimitedError('429', 9_000, { scope: 'provider' });
  expect(await provider.run(await provider.add(), () => Promise.reject(limited))).toMatchObject({ kind: 'parked' });

  const waiting = await provider.add();
  expect(await provider.deliver(waiting)).toMatchObject({ kind: 'later', reason: 'parked' });
  expect(await read(waiting)).toMatchObject({ attempt: 0, reason: 'rate_limited' });
  const otherWorker = new ProviderGate(bundle.pool, 1).open(inHand, new AbortController().signal);
  await expect(otherWorker.turn()).rejects.toMatchObject({ code: 'rate_limited' });
});

it('a run whose turn is too far away is parked and calls nobody', async () => {
  const provider = await addProvider({ perMinute: 2 });
  expect(await provider.run(await provider.add(), provider.answers)).toMatchObject({ kind: 'completed' });
  const id = await provider.add();
  const called: string[] = [];
  const ending = await provider.run(id, () => Promise.resolve(called.push(id)));
  expect(ending).toMatchObject({ kind: 'parked' });
  expect(called).toEqual([]);
  expect(await read(id)).toMatchObject({ state: 'published', attempt: 0 });
});

it('a row whose worker died is not parked: what became of its call has to be found out', async () => {
  const provider = await addProvider();
  await provider.bringDown();
  const id = await addRow(bundle.pool, { name: `job-of-${provider.name}`, state: 'active', leaseInMs: -1_000 });
  expect(jobOf(await provider.deliver(id))).toMatchObject({ attempt: 1 });
});

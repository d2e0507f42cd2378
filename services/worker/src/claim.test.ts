import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { MINUTE, SECOND, withTransaction } from '@outbox/core';
import { captureLogs, createTestDatabase } from '@outbox/testing';
import { createClaim, type Verdict } from './claim.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, readAttempts, readRow, requestCancel, type RowRequest } from './worker.fixture.ts';

const LEASE_MS = 15 * SECOND;

async function setup() {
  const database = await createTestDatabase();
  const { pool } = database;
  await addJobType(pool, { timeoutMs: 30 * SECOND, backoffMs: 1 * MINUTE });
  const backend = { readCounter: () => Promise.resolve(undefined) }; // claims do not ask it
  const restores = new RestoreWatch({ db: pool, backend, log: captureLogs().log });
  const workerNamed = (workerId: string) => createClaim({ pool, workerId, leaseMs: LEASE_MS, maxBatch: 200, restores });
  return { pool, workerNamed, claim: workerNamed('worker'), close: () => database.drop() };
}

/** One database for the file: every test has rows of its own. */
let bundle: Awaited<ReturnType<typeof setup>>;
beforeAll(async () => {
  bundle = await setup();
});
afterAll(() => bundle.close());

const add = (request?: RowRequest) => addRow(bundle.pool, request);
const read = (id: string) => readRow(bundle.pool, id);
const claim = (id: string, generation = 1) => bundle.claim({ id, generation });

function jobOf(verdict: Verdict) {
  if (verdict.kind !== 'run') throw new Error(`expected a run, not ${JSON.stringify(verdict)}`);
  return verdict.job;
}

function instantOf(verdict: Verdict) {
  if (verdict.kind !== 'later') throw new Error(`expected to come back later, not ${JSON.stringify(verdict)}`);
  return verdict.atMs;
}

/** Resolves at the next step of any statement of this process, which is that of the claim under way. */
function nextStep(): Promise<void> {
  return new Promise((resolve) => {
    const listener = () => {
      unsubscribe('outbox.step', listener);
      resolve();
    };
    subscribe('outbox.step', listener);
  });
}

describe('run', () => {
  it.each(['published', 'pending'] as const)('a %s row that is due becomes active, one attempt more', async (state) => {
    const id = await add({ state, payload: { from: 'the row' } });

    const job = jobOf(await claim(id));

    expect(job).toMatchObject({ id, generation: 1, name: 'test_job', payload: { from: 'the row' }, attempt: 1 });
    expect(job).toMatchObject({ maxAttempts: 3, timeoutMs: 30 * SECOND, backoffMs: 1 * MINUTE, backoffJitter: 0.25 });
    expect(job.queuedMs).toBeGreaterThanOrEqual(1 * SECOND);
    const row = await read(id);
    expect(row).toMatchObject({ state: 'active', run: job.run, attempt: 1, interruptions: 0, lockedBy: 'worker' });
    expect(row.lockedUntilMs).toBeGreaterThan(row.nowMs + LEASE_MS - 5 * SECOND);
    expect(row.lockedUntilMs).toBeLessThanOrEqual(row.nowMs + LEASE_MS);
    expect(await readAttempts(bundle.pool, id)).toEqual([]);
  });

  it('the settings of an operator win over those of the catalogue', async () => {
    await addJobType(bundle.pool, { name: 'tuned' });
    const id = await add({ name: 'tuned' });
    await bundle.pool.query(
      `update outbox.job_types set operator_timeout = '5 s', operator_backoff = '7 s' where name = 'tuned'`,
    );
    expect(jobOf(await claim(id))).toMatchObject({ timeoutMs: 5 * SECOND, backoffMs: 7 * SECOND });
  });

  it.each([
    ['which reads the world as it is now, need not run again', false, false],
    ['which was cancelled and only finds out about its call, is still to run again', true, true],
  ])('a row that was asked to run again, %s', async (_title, cancelled, rerun) => {
    const id = await add({ state: 'active', leaseInMs: -1 });
    await bundle.pool.query('update outbox.jobs set rerun = true where id = $1', [id]);
    if (cancelled) await requestCancel(bundle.pool, id);
    expect(jobOf(await claim(id)).cancelRequested).toBe(cancelled);
    const { rows } = await bundle.pool.query('select rerun from outbox.jobs where id = $1', [id]);
    expect(rows).toEqual([{ rerun }]);
  });

  it('every claim has a newer run than any before', async () => {
    const runs: bigint[] = [];
    for (let round = 0; round < 3; round += 1) runs.push(BigInt(jobOf(await claim(await add())).run));
    expect(runs).toEqual([...new Set(runs)].sort((a, b) => (a < b ? -1 : 1)));
  });

  it('a row whose lease is over runs again: the same attempt, a new run, the interruption on record', async () => {
    const id = await add({ state: 'active', attempt: 2, interruptions: 3, leaseInMs: -1 });
    const { run: earlierRun } = await read(id);

    const job = jobOf(await claim(id));

    expect(job.attempt).toBe(2);
    expect(job.run).not.toBe(earlierRun);
    expect(await read(id)).toMatchObject({ state: 'active', attempt: 2, interruptions: 4, run: job.run });
    expect(await readAttempts(bundle.pool, id)).toMatchObject([
      { run: earlierRun, attempt: 2, outcome: 'interrupted', worker: 'earlier worker' },
    ]);
  });

  it.each([
    ['waiting', false],
    ['open', true],
  ] as const)(
    'releases the key of a job that is unique while %s: it holds it afterwards: %s',
    async (unique, holdsKey) => {
      await addJobType(bundle.pool, { name: `unique_${unique}`, unique });
      const id = await add({ name: `unique_${unique}`, key: 'k', holdsKey: true });
      jobOf(await claim(id));
      expect(await read(id)).toMatchObject({ state: 'active', holdsKey });
    },
  );
});

describe('later', () => {
  it.each(['published', 'pending'] as const)('a %s row that is not due yet: at its instant', async (state) => {
    const id = await add({ state, dueInMs: 1 * MINUTE });
    const { dueMs } = await read(id);

    const verdict = await claim(id);

    expect(verdict).toMatchObject({ kind: 'later', reason: 'not_due' });
    expect(instantOf(verdict)).toBeCloseTo(dueMs, 1);
    expect(await read(id)).toMatchObject({ state, attempt: 0, run: null });
  });

  it('a row that another worker holds: at the end of its lease', async () => {
    const id = await add({ state: 'active', leaseInMs: 9 * SECOND });
    const before = await read(id);

    const verdict = await claim(id);

    expect(verdict).toMatchObject({ kind: 'later', reason: 'leased' });
    expect(instantOf(verdict)).toBeCloseTo(before.lockedUntilMs ?? NaN, 1);
    expect(await read(id)).toMatchObject({ run: before.run, interruptions: 0, lockedBy: 'earlier worker' });
  });

  it('a row of a paused queue whose worker died: 5 s later, and not run', async () => {
    const id = await add({ state: 'active', leaseInMs: -1 * SECOND });
    const { rows } = await bundle.pool.query<{ queue: string }>(
      `insert into outbox.queues (name, paused_at, paused_by)
       select queue, now(), 'ada' from outbox.jobs where id = $1
       on conflict (name) do update set paused_at = now(), paused_by = 'ada'
       returning name as queue`,
      [id],
    );
    try {
      const verdict = await claim(id);

      expect(verdict).toMatchObject({ kind: 'later', reason: 'paused' });
      const { nowMs, interruptions } = await read(id);
      expect(instantOf(verdict) - nowMs).toBeGreaterThan(3 * SECOND);
      expect(instantOf(verdict) - nowMs).toBeLessThanOrEqual(5 * SECOND);
      expect(interruptions).toBe(0);
    } finally {
      await bundle.pool.query('select outbox.resume_queue(name => $1)', [rows[0]?.queue]);
    }
  });

  it('a row that a transaction has locked: a moment later, and the rest of the batch runs', async () => {
    const [busy, ...others] = [await add(), await add(), await add()];
    await withTransaction(bundle.pool, async (business) => {
      await business.query('select from outbox.jobs where id = $1 for update', [busy]);

      const [first, ...rest] = await Promise.all([busy, ...others].map((id) => claim(id)));

      expect(first).toMatchObject({ kind: 'later', reason: 'busy' });
      const { nowMs } = await read(busy);
      expect(first && instantOf(first)).toBeGreaterThan(nowMs - 1 * SECOND);
      expect(first && instantOf(first)).toBeLessThan(nowMs + 2 * SECOND);
      expect(rest.map((verdict) => jobOf(verdict).id)).toEqual(others);
    });
    expect(jobOf(await claim(busy)).attempt).toBe(1);
  });

  it('a row that is locked for a moment only, as by the bridge that marks it: run, without coming back', async () => {
    const id = await add();
    const { claiming } = await withTransaction(bundle.pool, async (bridge) => {
      await bridge.query('select from outbox.jobs where id = $1 for update', [id]);
      const asked = nextStep();
      const claiming = claim(id);
      await asked;
      return { claiming };
    });
    expect(jobOf(await claiming)).toMatchObject({ id, attempt: 1 });
  });

  it('a row whose lease is over but which is locked: a moment later, and nothing is counted', async () => {
    const id = await add({ state: 'active', leaseInMs: -1 * MINUTE });
    await withTransaction(bundle.pool, async (business) => {
      await business.query('select from outbox.jobs where id = $1 for update', [id]);
      const verdict = await claim(id);
      expect(instantOf(verdict)).toBeLessThan((await read(id)).nowMs + 2 * SECOND);
    });
    expect(await read(id)).toMatchObject({ interruptions: 0 });
    expect(await readAttempts(bundle.pool, id)).toEqual([]);
  });
});

describe('drop', () => {
  it('an id that has no row', async () => {
    expect(await claim('987654321')).toEqual({ kind: 'drop', reason: 'missing' });
  });

  it.each(['pending', 'published', 'active'] as const)(
    'an older life of a %s row, which is untouched',
    async (state) => {
      const id = await add({ state, generation: 2, leaseInMs: -1 });
      const before = await read(id);
      expect(await claim(id, 1)).toEqual({ kind: 'drop', reason: 'superseded' });
      expect(await read(id)).toEqual({ ...before, nowMs: expect.any(Number) as number });
    },
  );

  it.each(['completed', 'skipped', 'failed', 'cancelled'] as const)(
    'a %s row, which never runs again',
    async (state) => {
      const id = await add({ state });
      const before = await read(id);
      expect(await claim(id)).toEqual({ kind: 'drop', reason: 'finished' });
      expect(await read(id)).toEqual({ ...before, nowMs: expect.any(Number) as number });
    },
  );

  it('a row that was interrupted 10 times fails instead of running once more', async () => {
    const id = await add({ state: 'active', key: 'k', holdsKey: true, interruptions: 10, leaseInMs: -1 });
    expect(await claim(id)).toEqual({ kind: 'drop', reason: 'interrupted_too_often' });
    const row = await read(id);
    expect(row).toMatchObject({ state: 'failed', reason: 'interrupted_too_often', holdsKey: false, lockedBy: null });
    expect(row.finishedMs).toBeGreaterThan(row.nowMs - 5 * SECOND);
    expect(await readAttempts(bundle.pool, id)).toMatchObject([{ outcome: 'interrupted' }]);
    expect(await claim(id)).toEqual({ kind: 'drop', reason: 'finished' });
  });

  it('a row that was interrupted 9 times runs', async () => {
    const id = await add({ state: 'active', interruptions: 9, leaseInMs: -1 });
    jobOf(await claim(id));
    expect(await read(id)).toMatchObject({ state: 'active', interruptions: 10 });
  });
});

describe('side by side', () => {
  it('two workers that claim the same 100 rows give each exactly one run', async () => {
    const ids = await Promise.all(
      Array.from({ length: 100 }, (_, n) => add({ state: n % 2 ? 'pending' : 'published' })),
    );
    const claimAll = (name: string) => {
      const claimOne = bundle.workerNamed(name);
      return Promise.all(ids.map((id) => claimOne({ id, generation: 1 })));
    };

    const [one, two] = await Promise.all([claimAll('one'), claimAll('two')]);

    const runs = [...one, ...two].filter(({ kind }) => kind === 'run').map(jobOf);
    expect(runs.map(({ id }) => id).sort()).toEqual([...ids].sort());
    expect(new Set(runs.map(({ run }) => run)).size).toBe(100);
    expect([...one, ...two].filter(({ kind }) => kind === 'later')).toHaveLength(100);
    for (const { id, run } of runs) expect(await read(id)).toMatchObject({ state: 'active', run, attempt: 1 });
  });

  it('a job that is delivered twice into one batch runs once, and the second delivery comes back later', async () => {
    const id = await add();
    const verdicts = await Promise.all([claim(id), claim(id), claim(id)]);
    expect(verdicts.map(({ kind }) => kind)).toEqual(['run', 'later', 'later']);
    for (const verdict of verdicts.slice(1)) {
      expect(instantOf(verdict)).toBeGreaterThan((await read(id)).nowMs);
    }
  });

  it('two lives of one row in one batch: the current one runs, the other is dropped', async () => {
    const id = await add({ generation: 2 });
    const [older, current] = await Promise.all([claim(id, 1), claim(id, 2)]);
    expect(older).toEqual({ kind: 'drop', reason: 'superseded' });
    expect(jobOf(current).generation).toBe(2);
  });

  it('a claim that meets a cancellation about to commit does not wait for it and drops the job afterwards', async () => {
    const id = await add();
    await withTransaction(bundle.pool, async (business) => {
      await requestCancel(business, id);
      await business.query(`update outbox.jobs set state = 'cancelled', finished_at = now() where id = $1`, [id]);
      expect(await claim(id)).toMatchObject({ kind: 'later', reason: 'busy' });
    });
    expect(await claim(id)).toEqual({ kind: 'drop', reason: 'finished' });
  });
});

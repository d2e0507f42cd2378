import { MINUTE, SECOND, withTransaction } from '@outbox/core';
import { createTestDatabase } from '@outbox/testing';
import type { ClaimedJob } from './claim.ts';
import type { Ending } from './ending.ts';
import { createFinish, finishAll, type FinishRequest } from './finish.ts';
import {
  addActive,
  addJobType,
  first,
  readAttempts,
  readRow,
  requestCancel,
  takeOver,
  type RowRequest,
  type RowView,
} from './worker.fixture.ts';

type Written = Exclude<Ending, { kind: 'lost' }>;

async function setup() {
  const database = await createTestDatabase();
  const { pool } = database;
  await addJobType(pool);
  return { pool, close: () => database.drop() };
}

/** One database for the file: every test has rows of its own. */
let bundle: Awaited<ReturnType<typeof setup>>;
beforeAll(async () => {
  bundle = await setup();
});
afterAll(() => bundle.close());

const add = (request?: Omit<RowRequest, 'state'>) => addActive(bundle.pool, request);
const read = ({ id }: ClaimedJob) => readRow(bundle.pool, id);
const attempts = ({ id }: ClaimedJob) => readAttempts(bundle.pool, id);
const finish = async (job: ClaimedJob, ending: Written, more: Partial<FinishRequest> = {}) =>
  first(await finishAll(bundle.pool, [{ job, ending, ...more }]));

const DONE: Written = { kind: 'completed', result: { sent: 1 } };
const error = new Error('provider on fire');

/** The row as it was, but for the time of the reading. */
function unchanged(row: RowView) {
  return { ...row, nowMs: expect.any(Number) as number };
}

describe('a run that ends the row', () => {
  it.each<[Written, Partial<RowView>, { reason: string | null; error: string | null }]>([
    [DONE, { state: 'completed', result: { sent: 1 } }, { reason: null, error: null }],
    [
      { kind: 'completed', result: undefined },
      { state: 'completed', result: null },
      { reason: null, error: null },
    ],
    [
      { kind: 'skipped', reason: 'nobody_left', result: { of: 3 } },
      { state: 'skipped', reason: 'nobody_left', result: { of: 3 } },
      { reason: 'nobody_left', error: null },
    ],
    [
      { kind: 'failed', reason: 'attempts_spent', error },
      { state: 'failed', reason: 'attempts_spent', lastError: 'Error: provider on fire' },
      { reason: 'attempts_spent', error: 'Error: provider on fire' },
    ],
    [
      { kind: 'cancelled', reason: 'cancelled_while_running' },
      { state: 'cancelled', reason: 'cancelled_while_running' },
      { reason: 'cancelled_while_running', error: null },
    ],
  ])('writes its columns and its attempt: %j', async (ending, columns, record) => {
    const job = await add({ attempt: 2, key: `key ${ending.kind} ${JSON.stringify(columns.result)}`, holdsKey: true });
    const { dueMs } = await read(job);

    expect(await finish(job, ending)).toMatchObject({ kind: 'finished' });

    const row = await read(job);
    expect(row).toMatchObject({ ...columns, attempt: 2, holdsKey: false, lockedBy: null, lockedUntilMs: null, dueMs });
    expect(row.finishedMs).toBeGreaterThan(row.nowMs - 5 * SECOND);
    expect(await attempts(job)).toEqual([
      { run: job.run, attempt: 2, outcome: ending.kind, worker: 'earlier worker', ...record },
    ]);
  });
});

describe('a run after which the row comes back', () => {
  it('retried: published, due after the delay by the database clock, the attempt spent, the key kept', async () => {
    const job = await add({ attempt: 2, key: 'retried', holdsKey: true });

    const result = await finish(job, { kind: 'retried', delayMs: 2 * MINUTE, error });

    const row = await read(job);
    expect(row).toMatchObject({ state: 'published', attempt: 2, holdsKey: true, lockedBy: null, lockedUntilMs: null });
    expect(row).toMatchObject({ finishedMs: null, lastError: 'Error: provider on fire' });
    expect(row.dueMs).toBeGreaterThan(row.nowMs + 2 * MINUTE - 5 * SECOND);
    expect(row.dueMs).toBeLessThanOrEqual(row.nowMs + 2 * MINUTE);
    expect(result).toEqual({ kind: 'finished', scheduledMs: row.dueMs, cancelRequested: false });
    expect(await attempts(job)).toMatchObject([{ attempt: 2, outcome: 'retried', error: 'Error: provider on fire' }]);
  });

  it.each<[Written, number]>([
    [{ kind: 'parked', delayMs: 30 * SECOND, error }, 30 * SECOND],
    [{ kind: 'handed_back' }, 0],
  ])('gives the attempt back: %j', async (ending, delayMs) => {
    const job = await add({ attempt: 2 });

    const result = await finish(job, ending);

    const row = await read(job);
    expect(row).toMatchObject({ state: 'published', attempt: 1, lockedBy: null, finishedMs: null });
    expect(row.dueMs).toBeGreaterThan(row.nowMs + delayMs - 5 * SECOND);
    expect(row.dueMs).toBeLessThanOrEqual(row.nowMs + delayMs);
    expect(result).toEqual({ kind: 'finished', scheduledMs: row.dueMs, cancelRequested: false });
    expect(await attempts(job)).toMatchObject([{ attempt: 2, outcome: ending.kind }]);
  });
});

describe('a row that was asked to be cancelled', () => {
  const COMING_BACK: Written[] = [
    { kind: 'retried', delayMs: 1 * MINUTE, error },
    { kind: 'parked', delayMs: 1 * MINUTE, error },
    { kind: 'handed_back' },
  ];

  it.each(COMING_BACK)('does not come back: %j', async (ending) => {
    const job = await add({ key: `cancelled ${ending.kind}`, holdsKey: true });
    await requestCancel(bundle.pool, job.id);

    expect(await finish(job, ending)).toMatchObject({ kind: 'otherwise', outcome: 'cancelled' });

    const row = await read(job);
    expect(row).toMatchObject({ state: 'cancelled', holdsKey: false, lockedBy: null, lockedUntilMs: null });
    expect(row.finishedMs).toBeGreaterThan(row.nowMs - 5 * SECOND);
    expect(await attempts(job)).toMatchObject([{ run: job.run, outcome: 'cancelled' }]);
  });

  it.each(COMING_BACK)('comes back all the same while a call of its is undecided: %j', async (ending) => {
    const job = await add();
    await requestCancel(bundle.pool, job.id);
    expect(await finish(job, ending, { undecided: true })).toMatchObject({ kind: 'finished' });
    expect(await read(job)).toMatchObject({ state: 'published', finishedMs: null });
    expect(await attempts(job)).toMatchObject([{ outcome: ending.kind }]);
  });

  it('keeps the end it came to when that was reached before', async () => {
    const job = await add();
    await requestCancel(bundle.pool, job.id);
    expect(await finish(job, DONE)).toMatchObject({ kind: 'finished' });
    expect(await read(job)).toMatchObject({ state: 'completed' });
  });
});

describe('the fence', () => {
  it('a run that another has taken over from is lost and changes nothing', async () => {
    const job = await add();
    await takeOver(bundle.pool, job);
    const before = await read(job);
    expect(await finish(job, DONE)).toEqual({ kind: 'lost' });
    expect(await read(job)).toEqual(unchanged(before));
    expect(await attempts(job)).toEqual([]);
  });

  it('a row that was ended by other hands is lost and changes nothing', async () => {
    const job = await add();
    await bundle.pool.query(
      `update outbox.jobs set state = 'cancelled', finished_at = now(), locked_until = null where id = $1`,
      [job.id],
    );
    const before = await read(job);
    expect(await finish(job, DONE)).toEqual({ kind: 'lost' });
    expect(await read(job)).toEqual(unchanged(before));
  });

  it('a row that is gone is lost', async () => {
    const job = await add();
    await bundle.pool.query('delete from outbox.jobs where id = $1', [job.id]);
    expect(await finish(job, DONE)).toEqual({ kind: 'lost' });
  });

  it.each<[Written, Written]>([
    [DONE, DONE],
    [DONE, { kind: 'retried', delayMs: 1 * MINUTE, error }],
    [{ kind: 'retried', delayMs: 1 * MINUTE, error }, DONE],
    [{ kind: 'handed_back' }, { kind: 'handed_back' }],
  ])(
    'a finish repeated after it was committed says how it ended, and changes nothing: %j, then %j',
    async (ending, again) => {
      const job = await add();
      await finish(job, ending);
      const before = await read(job);

      expect(await finish(job, again)).toEqual({
        kind: 'otherwise',
        outcome: ending.kind,
        reason: null,
        scheduledMs: before.dueMs,
      });
      expect(await read(job)).toEqual(unchanged(before));
      expect(await attempts(job)).toHaveLength(1);
    },
  );

  it('a run that was committed is known as such although another run has followed', async () => {
    const job = await add();
    await finish(job, { kind: 'handed_back' });
    await takeOver(bundle.pool, job);
    const before = await read(job);
    expect(await finish(job, { kind: 'handed_back' })).toMatchObject({ kind: 'otherwise', outcome: 'handed_back' });
    expect(await read(job)).toEqual(unchanged(before));
  });
});

describe('a locked row', () => {
  it('is busy, and the rest of the batch ends', async () => {
    const [locked, other] = [await add(), await add()];
    const end = createFinish(bundle.pool, 10);
    await withTransaction(bundle.pool, async (business) => {
      await business.query('select from outbox.jobs where id = $1 for update', [locked.id]);
      const [one, two] = await Promise.all([locked, other].map((job) => end({ job, ending: DONE })));
      expect(one).toEqual({ kind: 'busy' });
      expect(two).toMatchObject({ kind: 'finished' });
    });
    expect(await read(locked)).toMatchObject({ state: 'active' });
    expect(await end({ job: locked, ending: DONE })).toMatchObject({ kind: 'finished' });
  });

  it('whose run is over is lost at once, not busy', async () => {
    const job = await add();
    await takeOver(bundle.pool, job);
    await withTransaction(bundle.pool, async (business) => {
      await business.query('select from outbox.jobs where id = $1 for update', [job.id]);
      expect(await finish(job, DONE)).toEqual({ kind: 'lost' });
    });
  });
});

describe('side by side', () => {
  it('of many runs that end one row at once one counts', async () => {
    const job = await add();
    const results = await Promise.all(Array.from({ length: 8 }, () => finish(job, DONE)));
    expect(results.filter(({ kind }) => kind === 'finished')).toHaveLength(1);
    expect(await attempts(job)).toHaveLength(1);
  });

  it('two workers ending the same rows in opposite orders do not meet in a deadlock', async () => {
    const jobs = await Promise.all(Array.from({ length: 100 }, () => add()));
    const requests = jobs.map((job) => ({ job, ending: DONE }));
    const results = await Promise.all([
      finishAll(bundle.pool, requests),
      finishAll(bundle.pool, [...requests].reverse()),
    ]);
    expect(results.flat().filter(({ kind }) => kind === 'finished')).toHaveLength(100);
  });
});

describe('what cannot be written', () => {
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;

  it.each<[string, unknown, unknown]>([
    ['a NUL character', { text: 'a\0b' }, { text: 'ab' }],
    ['the letters of an escaped NUL', { text: '\\u0000' }, { text: '\\u0000' }],
    ['half a surrogate pair', { text: '\ud83d!' }, { text: '\ufffd!' }],
    ['a key that is half a pair', { '\ud83d': 1 }, { '\ufffd': 1 }],
    ['a big integer', { big: 1n }, { unserialisable: true }],
    ['a cycle', cyclic, { unserialisable: true }],
    ['a function', () => 1, null],
    ['what has an own JSON form', { at: new Date(0) }, { at: '1970-01-01T00:00:00.000Z' }],
  ])('in a result keeps no row from ending: %s', async (_name, result, kept) => {
    const job = await add();
    expect(await finish(job, { kind: 'completed', result })).toMatchObject({ kind: 'finished' });
    expect(await read(job)).toMatchObject({ state: 'completed', result: kept });
  });

  it('an endless error with odd characters is cut and cleaned', async () => {
    const job = await add();
    const odd = new Error(`\0\ud83d${'x'.repeat(5_000)}`);
    expect(await finish(job, { kind: 'failed', reason: 'permanent', error: odd })).toMatchObject({ kind: 'finished' });
    expect((await read(job)).lastError).toBe(`Error: \ufffd${'x'.repeat(992)}`);
  });
});

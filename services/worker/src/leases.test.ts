import { createPool, JobCancelledError, LeaseLostError, SECOND, withTransaction } from '@outbox/core';
import { captureLogs, createTestDatabase, waitFor } from '@outbox/testing';
import type { ClaimedJob } from './claim.ts';
import { Leases } from './leases.ts';
import { addActive, addJobType, readRow, requestCancel, takeOver } from './worker.fixture.ts';

const LEASE_MS = 20 * SECOND;

async function setup() {
  const database = await createTestDatabase();
  const { pool } = database;
  await addJobType(pool);
  return { pool, close: () => database.drop() };
}

/** One database for the file: every test has rows and leases of its own. */
let bundle: Awaited<ReturnType<typeof setup>>;
beforeAll(async () => {
  bundle = await setup();
});
afterAll(() => bundle.close());

const read = ({ id }: ClaimedJob) => readRow(bundle.pool, id);

/** Leases that are kept for jobs, and the reasons for which they were aborted. */
function keepAll(jobs: ClaimedJob[], { leaseMs = LEASE_MS, pool = bundle.pool } = {}) {
  const { log, lines } = captureLogs();
  const leases = new Leases({ pool, leaseMs, handBack: new AbortController().signal, log });
  const aborted = new Map<string, Error>();
  const releases = jobs.map((job) => leases.keep(job, (reason) => aborted.set(job.id, reason)));
  return { leases, aborted, releases, lines };
}

async function expectRenewed(job: ClaimedJob) {
  const { lockedUntilMs, nowMs } = await read(job);
  expect(lockedUntilMs).toBeGreaterThan(nowMs + LEASE_MS - 5 * SECOND);
  expect(lockedUntilMs).toBeLessThanOrEqual(nowMs + LEASE_MS);
}

it('renews every running job for a whole lease', async () => {
  const jobs = [await addActive(bundle.pool, { leaseInMs: 1 }), await addActive(bundle.pool, { leaseInMs: 1 })];
  const { leases, aborted } = keepAll(jobs);
  await leases.renew();
  for (const job of jobs) await expectRenewed(job);
  expect(aborted).toEqual(new Map());
});

it('renews a lease that is over while nobody has taken the row over', async () => {
  const job = await addActive(bundle.pool, { leaseInMs: -1 * SECOND });
  const { leases, aborted } = keepAll([job]);
  await leases.renew();
  await expectRenewed(job);
  expect(aborted.size).toBe(0);
});

it('aborts the job whose row another run took over, and leaves that run alone', async () => {
  const [lost, kept] = [await addActive(bundle.pool), await addActive(bundle.pool, { leaseInMs: 1 })];
  await takeOver(bundle.pool, lost);
  const before = await read(lost);
  const { leases, aborted } = keepAll([lost, kept]);

  await leases.renew();

  expect([...aborted.keys()]).toEqual([lost.id]);
  expect(aborted.get(lost.id)).toBeInstanceOf(LeaseLostError);
  expect((await read(lost)).lockedUntilMs).toBe(before.lockedUntilMs);
  await expectRenewed(kept);
});

it.each(['completed', 'published'])('aborts the job whose row is %s by other hands', async (state) => {
  const job = await addActive(bundle.pool);
  await bundle.pool.query(
    `update outbox.jobs
     set state = $2, locked_until = null, finished_at = case when $2 = 'completed' then now() end
     where id = $1`,
    [job.id, state],
  );
  const { leases, aborted } = keepAll([job]);
  await leases.renew();
  expect(aborted.get(job.id)).toBeInstanceOf(LeaseLostError);
  expect(await read(job)).toMatchObject({ state, lockedUntilMs: null });
});

it('aborts the job whose row is gone', async () => {
  const job = await addActive(bundle.pool);
  await bundle.pool.query('delete from outbox.jobs where id = $1', [job.id]);
  const { leases, aborted } = keepAll([job]);
  await leases.renew();
  expect(aborted.get(job.id)).toBeInstanceOf(LeaseLostError);
});

it('brings a cancel request back as an abort, and keeps the lease until the job has ended', async () => {
  const [cancelled, kept] = [await addActive(bundle.pool, { leaseInMs: 1 }), await addActive(bundle.pool)];
  await requestCancel(bundle.pool, cancelled.id);
  const { leases, aborted } = keepAll([cancelled, kept]);
  await leases.renew();
  expect([...aborted.keys()]).toEqual([cancelled.id]);
  expect(aborted.get(cancelled.id)).toBeInstanceOf(JobCancelledError);
  await expectRenewed(cancelled);
});

it('looks for cancellations in between, without renewing anything', async () => {
  const [cancelled, kept] = [await addActive(bundle.pool), await addActive(bundle.pool)];
  const before = [await read(cancelled), await read(kept)];
  await requestCancel(bundle.pool, cancelled.id);
  const { leases, aborted } = keepAll([cancelled, kept]);
  await leases.checkStopped();
  expect([...aborted.keys()]).toEqual([cancelled.id]);
  expect(aborted.get(cancelled.id)).toBeInstanceOf(JobCancelledError);
  for (const [index, job] of [cancelled, kept].entries()) {
    expect((await read(job)).lockedUntilMs).toBe(before[index]?.lockedUntilMs);
  }
});

it('aborts a run that was taken over as lost, also when the later one was cancelled', async () => {
  const job = await addActive(bundle.pool);
  const later = await takeOver(bundle.pool, job);
  await requestCancel(bundle.pool, later.id);
  const { leases, aborted } = keepAll([job]);
  await leases.checkStopped();
  expect(aborted.get(job.id)).toBeInstanceOf(LeaseLostError);
});

it('aborts a run whose claim the database has forgotten', async () => {
  const job = await addActive(bundle.pool);
  await bundle.pool.query(
    `update outbox.jobs set state = 'published', run = null, locked_by = null, locked_until = null where id = $1`,
    [job.id],
  );
  const { leases, aborted } = keepAll([job]);
  await leases.checkStopped();
  expect(aborted.get(job.id)).toBeInstanceOf(LeaseLostError);
});

it('lets a run that was claimed after the cancellation find out what became of its call', async () => {
  const job = { ...(await addActive(bundle.pool, { leaseInMs: 1 })), cancelRequested: true };
  await requestCancel(bundle.pool, job.id);
  const { leases, aborted } = keepAll([job]);
  await leases.checkStopped();
  await leases.renew();
  expect(aborted.size).toBe(0);
  await expectRenewed(job);
});

it('once started it brings a cancellation back within a second, however long the lease', async () => {
  const job = await addActive(bundle.pool);
  const { leases, aborted } = keepAll([job], { leaseMs: 10 * 60 * SECOND });
  leases.start();
  await requestCancel(bundle.pool, job.id);
  await waitFor(() => expect(aborted.get(job.id)).toBeInstanceOf(JobCancelledError), { timeoutMs: 1 * SECOND });
  await leases.stop();
});

it('skips a row that a transaction has locked: not aborted, the others renewed at once', async () => {
  const [locked, other] = [await addActive(bundle.pool), await addActive(bundle.pool, { leaseInMs: 1 })];
  const { leases, aborted } = keepAll([locked, other]);
  const before = await read(locked);
  await withTransaction(bundle.pool, async (business) => {
    await business.query('select from outbox.jobs where id = $1 for update', [locked.id]);
    await leases.renew();
  });
  expect(aborted.size).toBe(0);
  expect((await read(locked)).lockedUntilMs).toBe(before.lockedUntilMs);
  await expectRenewed(other);

  // Nothing but the lock kept it from being renewed.
  await bundle.pool.query(`update outbox.jobs set locked_until = now() where id = $1`, [locked.id]);
  await leases.renew();
  await expectRenewed(locked);
});

it('renews no job that has been released', async () => {
  const job = await addActive(bundle.pool, { leaseInMs: 1 * SECOND });
  const { leases, releases, aborted } = keepAll([job]);
  for (const release of releases) release();
  const before = await read(job);
  await leases.renew();
  expect((await read(job)).lockedUntilMs).toBe(before.lockedUntilMs);
  await takeOver(bundle.pool, job);
  await leases.renew();
  expect(aborted.size).toBe(0);
});

it('aborts nobody while Postgres is away, and says so', async () => {
  const job = await addActive(bundle.pool);
  const away = createPool({
    url: 'postgres://127.0.0.1:1/none',
    applicationName: 'away',
    max: 1,
    onError: () => undefined,
  });
  const { leases, aborted, lines } = keepAll([job], { pool: away });
  await leases.renew();
  await away.end();
  expect(aborted.size).toBe(0);
  expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', msg: 'leases not renewed' }));
});

it('once started it renews by itself well before a lease ends, until it is stopped', async () => {
  const leaseMs = 600;
  const job = await addActive(bundle.pool, { leaseInMs: leaseMs });
  const { leases, aborted } = keepAll([job], { leaseMs });
  const began = await read(job);
  leases.start();
  leases.start();

  // For three leases the row is never free for others.
  const leasesSeen = new Set<number>();
  const leftMs: number[] = [];
  await waitFor(
    async () => {
      const { lockedUntilMs, nowMs } = await read(job);
      leasesSeen.add(lockedUntilMs ?? NaN);
      leftMs.push((lockedUntilMs ?? NaN) - nowMs);
      expect(nowMs - began.nowMs).toBeGreaterThan(3 * leaseMs);
    },
    { timeoutMs: 10 * leaseMs },
  );
  expect(leasesSeen.size).toBeGreaterThan(3);
  expect(Math.min(...leftMs)).toBeGreaterThan(0);
  expect(aborted.size).toBe(0);

  await leases.stop();
  const stopped = await read(job);
  await waitFor(async () => expect((await read(job)).nowMs).toBeGreaterThan(stopped.nowMs + leaseMs));
  expect((await read(job)).lockedUntilMs).toBe(stopped.lockedUntilMs);
});

it('a renewal asked for while one is under way joins it', async () => {
  const { leases } = keepAll([await addActive(bundle.pool)]);
  const [one, two] = [leases.renew(), leases.renew()];
  expect(one).toBe(two);
  await one;
  const next = leases.renew();
  expect(next).not.toBe(one);
  await next;
});

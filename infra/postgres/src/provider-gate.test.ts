import { rowsOf, useRows, type Row } from './rows.fixture.ts';

const rows = useRows();

let names = 0;

/** A provider nobody else uses, and what a worker says and asks at its gate. Tenant null: it knows one only. */
async function addProvider(limits: { threshold?: number; perMinute?: number } = {}) {
  const { pool } = rows.database;
  const name = `provider-${(names += 1)}`;
  await pool.query('insert into outbox.providers (name, breaker_threshold, requests_per_minute) values ($1, $2, $3)', [
    name,
    limits.threshold ?? 3,
    limits.perMinute,
  ]);
  const one = async (sql: string, values: unknown[]) => (await rowsOf(pool, sql, values))[0] as Row;
  return {
    name,
    /** Adds a published job that has spent `attempts`. */
    addJob: async (...changes: ('claim' | 'retry')[]) => {
      const type = await rows.addType('none');
      return (await rows.add(type, {}, 'publish', ...changes)).id;
    },
    pass: (job: string, tenant: string | null = null) =>
      one(
        `select blocked_until is null as passes, reason, probing,
           extract(epoch from blocked_until - clock_timestamp())::float8 as "forS"
         from outbox.pass_gate($1, $2, $3)`,
        [job, name, tenant],
      ),
    /** True when nobody calls the provider any more. */
    fail: async (job: string, tenant: string | null = null, spendsAttempt = true) => {
      const failure = [name, tenant, job, '503', spendsAttempt];
      return (await one('select outbox.note_provider_failure($1, $2, $3, $4, $5) is not null as away', failure)).away;
    },
    answer: (tenant: string | null = null) =>
      pool.query('select outbox.note_provider_answers($1, $2)', [[name], [tenant]]),
    breaker: (tenant = '') =>
      one(
        `select state, consecutive_failures as failures, last_error as error, probe_job as probe,
           extract(epoch from probe_at - clock_timestamp())::float8 as "probeInS"
         from outbox.breakers where provider = $1 and tenant = $2`,
        [name, tenant],
      ),
    /** As if so many seconds had gone by. */
    goBy: (seconds: number) =>
      pool.query(
        `update outbox.breakers
         set opened_at = opened_at - $2 * interval '1 s', probe_at = probe_at - $2 * interval '1 s',
             limited_until = limited_until - $2 * interval '1 s'
         where provider = $1`,
        [name, seconds],
      ),
    limit: (tenant: string | null, ms: number) =>
      pool.query('select outbox.note_provider_limit($1, $2, $3)', [name, tenant, ms]),
    turns: async (count: number, tenant: string | null = null, maxWaitMs = 2_000) => {
      const answer = await rowsOf(
        pool,
        'select granted, wait_ms as "waitMs", reason from outbox.take_turns($1, $2, $3) order by position',
        [Array(count).fill(name), Array(count).fill(tenant), maxWaitMs],
      );
      return answer as { granted: boolean; waitMs: number; reason: string | null }[];
    },
  };
}

/** Seconds from when they were set: a slow machine has fewer left, and the time away grows while it looks. */
function expectAbout(seconds: unknown, expected: number): void {
  expect(seconds).toBeGreaterThan(expected - 10);
  expect(seconds).toBeLessThan(expected + 5);
}

async function attemptOf(job: string) {
  return (await rows.read(job)).attempt;
}

describe('a breaker', () => {
  it('opens after so many failures in a row, and gives their attempts back', async () => {
    const provider = await addProvider();
    const jobs = [await provider.addJob('claim', 'retry'), await provider.addJob('claim', 'retry')];
    const last = await provider.addJob('claim');
    expect(await provider.fail(jobs[0] as string)).toBe(false);
    expect(await provider.fail(jobs[1] as string)).toBe(false);
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([1, 1]);
    expect(await provider.fail(last)).toBe(true);
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([0, 0]);
    expect(await provider.breaker()).toMatchObject({ state: 'open', failures: 3, error: '503' });
    expectAbout((await provider.breaker()).probeInS, 60);
  });

  it('gives one job back all that the streak has cost it, and its running attempt to nobody but itself', async () => {
    const provider = await addProvider();
    const job = await provider.addJob('claim', 'retry', 'claim', 'retry', 'claim');
    for (let failure = 1; failure <= 3; failure += 1) await provider.fail(job);
    expect(await attemptOf(job)).toBe(1);
  });

  it('gives nothing back for a run that spent no attempt', async () => {
    const provider = await addProvider({ threshold: 2 });
    const job = await provider.addJob('claim', 'retry', 'claim', 'retry');
    await provider.fail(job, null, false);
    expect(await provider.fail(await provider.addJob())).toBe(true);
    expect(await attemptOf(job)).toBe(2);
  });

  it('gives an attempt back later when its run has failed and is not written down yet', async () => {
    const provider = await addProvider();
    const jobs = [await provider.addJob('claim'), await provider.addJob('claim'), await provider.addJob('claim')];
    for (const job of jobs) await provider.fail(job);
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([1, 1, 1]);
    await rows.change(jobs[0] as string, 'retry');
    expect(await provider.fail(jobs[2] as string)).toBe(true);
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([0, 1, 1]);

    await rows.change(jobs[1] as string, 'retry');
    await provider.goBy(61);
    expect(await provider.pass(jobs[1] as string)).toMatchObject({ probing: true });
    await provider.answer();
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([0, 0, 1]);
    await provider.answer();
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([0, 0, 1]);
  });

  it('stays closed when an answer comes in between', async () => {
    const provider = await addProvider();
    const job = await provider.addJob('claim', 'retry');
    await provider.fail(job);
    await provider.fail(job);
    await provider.answer();
    expect(await provider.fail(job)).toBe(false);
    expect(await provider.breaker()).toMatchObject({ state: 'closed', failures: 1 });
    expect(await attemptOf(job)).toBe(1);
  });

  it('that is open blocks everybody until its probe, somewhat spread', async () => {
    const provider = await addProvider({ threshold: 1 });
    const job = await provider.addJob();
    await provider.fail(job);
    const blocked = await provider.pass(job);
    expect(blocked).toMatchObject({ passes: false, reason: 'breaker_open', probing: false });
    expectAbout(blocked.forS, 60);
  });

  it('lets one job through when the probe is due; the others come back soon', async () => {
    const provider = await addProvider({ threshold: 1 });
    const [probe, other] = [await provider.addJob(), await provider.addJob()];
    await provider.fail(probe);
    await provider.goBy(61);
    expect(await provider.pass(probe)).toMatchObject({ passes: true, probing: true });
    const blocked = await provider.pass(other);
    expect(blocked).toMatchObject({ passes: false, reason: 'breaker_open' });
    expect(blocked.forS).toBeLessThan(8);
    expect(await provider.pass(probe)).toMatchObject({ passes: true, probing: true });
  });

  it('two who come at the same time are not both let through', async () => {
    const provider = await addProvider({ threshold: 1 });
    const [first, second] = [await provider.addJob(), await provider.addJob()];
    await provider.fail(first);
    await provider.goBy(61);
    const claim = await rows.begin();
    const pass = 'select blocked_until is null as passes from outbox.pass_gate($1, $2, null)';
    expect(await rowsOf(claim, pass, [first, provider.name])).toEqual([{ passes: true }]);
    const blocked = await provider.pass(second);
    expect(blocked).toMatchObject({ passes: false, reason: 'breaker_open' });
    expect(blocked.forS).toBeLessThan(2);
    await claim.query('commit');
    expect(await provider.pass(second)).toMatchObject({ passes: false });
  });

  it('closes when its probe is answered', async () => {
    const provider = await addProvider({ threshold: 1 });
    const job = await provider.addJob();
    await provider.fail(job);
    await provider.goBy(61);
    await provider.pass(job);
    await provider.answer();
    expect(await provider.breaker()).toMatchObject({ state: 'closed', failures: 0, probe: null, probeInS: null });
    expect(await provider.pass(await provider.addJob())).toMatchObject({ passes: true, probing: false });
  });

  it('that is open does not close by the answer to a question from before', async () => {
    const provider = await addProvider({ threshold: 1 });
    await provider.fail(await provider.addJob());
    await provider.answer();
    expect(await provider.breaker()).toMatchObject({ state: 'open' });
  });

  it.each([
    [60, 60],
    [300, 100],
    [86_400, 900],
  ])('away for %i s when a probe fails, waits %i s for the next', async (awayS, waitS) => {
    const provider = await addProvider({ threshold: 1 });
    const job = await provider.addJob();
    await provider.fail(job);
    await provider.goBy(awayS);
    await provider.pass(job);
    expect(await provider.fail(job)).toBe(true);
    expect((await provider.breaker()).state).toBe('open');
    expectAbout((await provider.breaker()).probeInS, waitS);
  });

  it('the failure of a run from before does not end a probe', async () => {
    const provider = await addProvider({ threshold: 1 });
    const [probe, old] = [await provider.addJob(), await provider.addJob()];
    await provider.fail(probe);
    await provider.goBy(61);
    await provider.pass(probe);
    expect(await provider.fail(old)).toBe(true);
    expect(await provider.breaker()).toMatchObject({ state: 'half_open', probe });
  });

  it('whose probing worker died lets another job through a minute later', async () => {
    const provider = await addProvider({ threshold: 1 });
    const [probe, other] = [await provider.addJob(), await provider.addJob()];
    await provider.fail(probe);
    await provider.goBy(61);
    await provider.pass(probe);
    await provider.goBy(61);
    expect(await provider.pass(other)).toMatchObject({ passes: true, probing: true });
    expect(await provider.breaker()).toMatchObject({ probe: other });
  });

  it('whose probe called nobody lets the next one through at once', async () => {
    const provider = await addProvider({ threshold: 1 });
    const [probe, other] = [await provider.addJob(), await provider.addJob()];
    await provider.fail(probe);
    await provider.goBy(61);
    await provider.pass(probe);
    await rows.database.pool.query('select outbox.release_probe($1)', [probe]);
    expect(await provider.pass(other)).toMatchObject({ passes: true, probing: true });
  });
});

describe('with tenants', () => {
  it('one tenant’s failures, however many, stop that tenant alone', async () => {
    const provider = await addProvider();
    for (let failure = 1; failure <= 10; failure += 1) await provider.fail(await provider.addJob(), 'ada');
    const job = await provider.addJob();
    expect(await provider.pass(job, 'ada')).toMatchObject({ passes: false });
    expect(await provider.pass(job, 'ben')).toMatchObject({ passes: true, probing: false });
    expect(await provider.breaker()).toMatchObject({ state: 'closed' });
  });

  it('a few broken ones, however often they fail in a row, do not stop the others', async () => {
    const provider = await addProvider();
    for (let round = 1; round <= 5; round += 1) {
      for (const tenant of ['ada', 'ben']) await provider.fail(await provider.addJob(), tenant);
    }
    await provider.answer('cyd');
    await provider.goBy(61);
    // Both are away for themselves by now, and their probes say nothing about Google or whoever it is.
    for (const tenant of ['ada', 'ben', 'dan', 'eve']) {
      const job = await provider.addJob();
      await provider.pass(job, tenant);
      await provider.fail(job, tenant);
    }
    expect(await provider.breaker()).toMatchObject({ state: 'closed', failures: 2 });
    expect(await provider.pass(await provider.addJob(), 'cyd')).toMatchObject({ passes: true, probing: false });
  });

  it('those that have failed probe after the others', async () => {
    const provider = await addProvider({ threshold: 2 });
    for (const tenant of ['ada', 'ben']) await provider.fail(await provider.addJob(), tenant);
    await provider.goBy(62);
    const [failed, other] = [await provider.addJob(), await provider.addJob()];
    const blocked = await provider.pass(failed, 'ada');
    expect(blocked).toMatchObject({ passes: false, reason: 'breaker_open' });
    expect(blocked.forS).toBeGreaterThan(3); // Not at once again: there is nothing new to hear then.
    expect(await provider.pass(other, 'cyd')).toMatchObject({ passes: true, probing: true });
    await provider.fail(other, 'cyd');
    await provider.goBy(71);
    expect(await provider.pass(failed, 'ada')).toMatchObject({ passes: true, probing: true });
  });

  it('failures of several in a row stop all, and every one gets its attempts back', async () => {
    const provider = await addProvider();
    const jobs = [await provider.addJob('claim', 'retry'), await provider.addJob('claim', 'retry')];
    await provider.fail(jobs[0] as string, 'ada');
    await provider.fail(jobs[1] as string, 'ben');
    expect(await provider.fail(await provider.addJob('claim'), 'cyd')).toBe(true);
    expect(await provider.pass(await provider.addJob(), 'dan')).toMatchObject({ passes: false });
    expect(await Promise.all(jobs.map(attemptOf))).toEqual([0, 0]);
  });

  it('attempts that one breaker gave back, the other does not give back again', async () => {
    const provider = await addProvider();
    const job = await provider.addJob('claim', 'retry', 'claim', 'retry', 'claim', 'retry');
    await provider.fail(job, 'ada');
    await provider.fail(await provider.addJob('claim'), 'ada');
    await provider.fail(await provider.addJob('claim'), 'ada');
    expect(await attemptOf(job)).toBe(2);
    for (const tenant of ['ben', 'cyd']) await provider.fail(await provider.addJob('claim'), tenant);
    expect(await provider.breaker()).toMatchObject({ state: 'open' });
    expect(await attemptOf(job)).toBe(2);
  });

  it('a job probes for both when its tenant and the provider are away', async () => {
    const provider = await addProvider({ threshold: 2 });
    const job = await provider.addJob();
    for (const tenant of ['ada', 'ada', 'ben']) await provider.fail(job, tenant);
    await provider.goBy(71);
    expect(await provider.pass(job, 'ada')).toMatchObject({ passes: true, probing: true });
    expect(await provider.pass(await provider.addJob(), 'ben')).toMatchObject({ passes: false });
    await provider.answer('ada');
    expect(await provider.breaker('')).toMatchObject({ state: 'closed' });
    expect(await provider.breaker('ada')).toMatchObject({ state: 'closed' });
  });
});

describe('a limit that the provider asked for', () => {
  it('holds one tenant, or all', async () => {
    const provider = await addProvider();
    const job = await provider.addJob();
    await provider.limit('ada', 60_000);
    expect(await provider.pass(job, 'ben')).toMatchObject({ passes: true });
    const blocked = await provider.pass(job, 'ada');
    expect(blocked).toMatchObject({ passes: false, reason: 'rate_limited' });
    expectAbout(blocked.forS, 60);
    await provider.limit(null, 120_000);
    expect(await provider.pass(job, 'ben')).toMatchObject({ passes: false, reason: 'rate_limited' });
  });

  it('stops the calls of jobs that run already', async () => {
    const provider = await addProvider();
    await provider.limit('ada', 7_000);
    expect(await provider.turns(1, 'ben')).toEqual([{ granted: true, waitMs: 0, reason: null }]);
    expect(await provider.turns(1, 'ada')).toMatchObject([{ granted: false, reason: 'rate_limited' }]);
  });

  it('that is shorter than one from before does not shorten it, and ends by itself', async () => {
    const provider = await addProvider();
    const job = await provider.addJob();
    await provider.limit(null, 60_000);
    await provider.limit(null, 1_000);
    expect((await provider.pass(job)).forS).toBeGreaterThan(50);
    await provider.goBy(61);
    expect(await provider.pass(job)).toMatchObject({ passes: true });
  });
});

describe('turns', () => {
  it('are evenly spaced, below the limit, whoever asks', async () => {
    const provider = await addProvider({ perMinute: 20 });
    const turns = [...(await provider.turns(2, null, 30_000)), ...(await provider.turns(2, null, 30_000))];
    expect(turns.map(({ granted }) => granted)).toEqual([true, true, true, true]);
    const [first = 0, second = 0, third = 0, last = 0] = turns.map(({ waitMs }) => waitMs);
    expect(first).toBe(0);
    expect([second - first, last - third].map(Math.round)).toEqual([3_158, 3_158]); // a minute by 95 % of 20
    expect(third).toBeGreaterThan(0);
  });

  it('further away than the caller wants to wait are not taken', async () => {
    const provider = await addProvider({ perMinute: 60 });
    const turns = await provider.turns(5);
    expect(turns.map(({ granted }) => granted)).toEqual([true, true, false, false, false]);
    expect(turns[2]).toMatchObject({ reason: 'no_turn' });
    expect(turns[2]?.waitMs).toBeCloseTo(turns[4]?.waitMs ?? 0, 5);
  });

  it('are free where there is no limit, and the operator’s limit wins', async () => {
    const provider = await addProvider();
    expect((await provider.turns(50)).every(({ waitMs }) => waitMs === 0)).toBe(true);
    await rows.database.pool.query('update outbox.providers set operator_requests_per_minute = 1 where name = $1', [
      provider.name,
    ]);
    expect((await provider.turns(2)).map(({ granted }) => granted)).toEqual([true, false]);
  });
});

describe('a pause', () => {
  const PAUSE = 'select outbox.pause_provider(name => $1, paused_by => $2, reason => $3) as changed';
  const RESUME = 'select outbox.resume_provider(name => $1) as changed';

  it('blocks every job and every call until it is resumed', async () => {
    const { pool } = rows.database;
    const provider = await addProvider();
    const job = await provider.addJob();
    expect(await rowsOf(pool, PAUSE, [provider.name, 'ada', 'they asked'])).toEqual([{ changed: true }]);
    expect(await rowsOf(pool, PAUSE, [provider.name, 'ben', 'other'])).toEqual([{ changed: false }]);
    expect(await provider.pass(job)).toMatchObject({ passes: false, reason: 'provider_paused' });
    expect(await provider.turns(1)).toMatchObject([{ granted: false, reason: 'provider_paused' }]);
    expect(await rowsOf(pool, RESUME, [provider.name])).toEqual([{ changed: true }]);
    expect(await provider.pass(job)).toMatchObject({ passes: true });
  });

  it.each([
    [PAUSE, ['nobody', 'ada', null]],
    [RESUME, ['nobody']],
  ])('of a provider that does not exist is OB012, with a hint where the names are: %s', async (sql, values) => {
    await expect(rows.database.pool.query(sql, values)).rejects.toMatchObject({
      code: 'OB012',
      hint: expect.stringContaining('outbox.providers') as string,
    });
  });
});

import { createPool } from '@outbox/core';
import { addHistory, captureLogs, collectSequentialScans, createTestDatabase, tellPlans } from '@outbox/testing';
import { createClaim } from './claim.ts';
import { createFinish } from './finish.ts';
import { Leases } from './leases.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, JOB } from './worker.fixture.ts';

/** Small whatever the history: settings, one row for each. */
const SMALL = ['meta', 'queues', 'job_types', 'breakers'];

it('no statement on the way of a job reads a table whole', async () => {
  const database = await createTestDatabase();
  await addJobType(database.pool);
  await addHistory(database, JOB);
  const ids = [await addRow(database.pool), await addRow(database.pool)];
  await tellPlans(database);
  const pool = createPool({
    url: database.url,
    applicationName: 'outbox worker',
    max: 3,
    preferIndexes: true,
    onError: () => undefined,
  });
  const seen = collectSequentialScans(pool);
  const { log } = captureLogs();
  const restores = new RestoreWatch({ db: pool, backend: { readCounter: () => Promise.resolve(undefined) }, log });
  const claim = createClaim({ pool, workerId: 'worker', leaseMs: 15_000, maxBatch: 200, restores });
  const finish = createFinish(pool, 200);
  const leases = new Leases({ pool, leaseMs: 15_000, handBack: new AbortController().signal, log });
  try {
    const verdicts = await Promise.all(ids.map((id) => claim({ id, generation: 1 })));
    const jobs = verdicts.flatMap((verdict) => (verdict.kind === 'run' ? [verdict.job] : []));
    for (const job of jobs) leases.keep(job, () => undefined);
    await leases.renew();
    await leases.checkCancels();
    await Promise.all(jobs.map((job) => finish({ job, ending: { kind: 'completed', result: undefined } })));

    expect(jobs).toHaveLength(2);
    expect(seen.plans).toBeGreaterThan(3);
    expect(seen.scans.filter(({ table }) => !SMALL.includes(table))).toEqual([]);
  } finally {
    await pool.end();
    await database.drop();
  }
});

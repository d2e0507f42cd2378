import { addHistory, captureLogs, createExplainedPool, createTestDatabase } from '@outbox/testing';
import { createClaim } from './claim.ts';
import { createFinish } from './finish.ts';
import { Leases } from './leases.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, JOB } from './worker.fixture.ts';

it('no statement on the way of a job reads a table whole', async () => {
  const database = await createTestDatabase();
  await addJobType(database.pool);
  await addHistory(database, JOB);
  const ids = [await addRow(database.pool), await addRow(database.pool)];
  const explained = await createExplainedPool(database, { preferIndexes: true });
  const { pool } = explained;
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
    await leases.checkStopped();
    await Promise.all(jobs.map((job) => finish({ job, ending: { kind: 'completed', result: undefined } })));

    expect(jobs).toHaveLength(2);
    expect(explained.plans).toBeGreaterThan(3);
    expect(explained.scans).toEqual([]);
  } finally {
    await pool.end();
    await database.drop();
  }
});

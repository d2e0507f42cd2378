import { createPool, LeaseLostError, SECOND, type EffectRequest, type Pool } from '@outbox/core';
import { captureLogs, startOwnPostgres, type OwnPostgres } from '@outbox/testing';
import { createClaim, type ClaimedJob } from './claim.ts';
import { EffectLedger } from './effects.ts';
import { finishAll } from './finish.ts';
import { ProviderGate } from './provider-gate.ts';
import { RestoreWatch } from './restore-watch.ts';
import { addJobType, addRow, first, readAttempts, readRow } from './worker.fixture.ts';

let server: OwnPostgres;
let pool: Pool;
beforeAll(async () => {
  server = await startOwnPostgres();
  pool = createPool({ url: server.url, applicationName: 'worker', max: 4, onError: () => undefined });
  await addJobType(pool);
}, 60 * SECOND);
afterAll(async () => {
  await pool.end();
  await server.stop();
});

async function claim(id: string): Promise<ClaimedJob> {
  const restores = new RestoreWatch({
    db: pool,
    backend: { readCounter: () => Promise.resolve(undefined) },
    log: captureLogs().log,
  });
  const verdict = await createClaim({ pool, workerId: 'worker', leaseMs: 15 * SECOND, maxBatch: 10, restores })({
    id,
    generation: 1,
  });
  if (verdict.kind !== 'run') throw new Error(`expected a run, not ${JSON.stringify(verdict)}`);
  return verdict.job;
}

function ledgerOf(job: ClaimedJob): EffectLedger {
  const { signal } = new AbortController();
  return new EffectLedger(pool, job, { signal, calls: new ProviderGate(pool, 1).open(job, signal) });
}

function createEffect(key: string, call: EffectRequest['call']): EffectRequest {
  const lookUp = () => Promise.resolve(undefined);
  return { key, provider: 'test', request: {}, call, lookUp, timeoutMs: 10 * SECOND };
}

const finish = async (job: ClaimedJob) =>
  first(await finishAll(pool, [{ job, ending: { kind: 'completed', result: null } }]));

test(
  'a claim that the database has forgotten counts for nothing, and its number is not given out again',
  async () => {
    const id = await addRow(pool);
    await server.holdLog();
    const forgotten = await claim(id);
    expect(await readRow(pool, id)).toMatchObject({ state: 'active', run: forgotten.run, attempt: 1 });

    await server.crash();

    expect(await readRow(pool, id)).toMatchObject({ state: 'published', run: null, attempt: 0 });
    const next = await claim(id);
    expect(next.run).not.toBe(forgotten.run);
    expect(next.attempt).toBe(1);
    let calls = 0;
    const effect = createEffect('of a forgotten run', () => Promise.resolve(`call ${(calls += 1)}`));
    await expect(ledgerOf(forgotten).run(effect)).rejects.toThrow(LeaseLostError);
    expect(calls).toBe(0);
    expect(await finish(forgotten)).toEqual({ kind: 'lost' });
    expect(await finish(next)).toMatchObject({ kind: 'finished' });
    expect(await readAttempts(pool, id)).toMatchObject([{ run: next.run, attempt: 1, outcome: 'completed' }]);
  },
  60 * SECOND,
);

test(
  'a claim is on the disk before anybody is called',
  async () => {
    const id = await addRow(pool);
    await server.holdLog();
    const job = await claim(id);
    const effect = createEffect('called before the crash', async () => {
      await server.crash();
      return 'a reference';
    });
    // Settling it may meet the connections that the crash has broken.
    await ledgerOf(job)
      .run(effect)
      .catch(() => undefined);

    expect(await readRow(pool, id)).toMatchObject({ state: 'active', run: job.run, attempt: 1 });
    const { rows } = await pool.query('select run from outbox.effects where key = $1', [effect.key]);
    expect(rows).toEqual([{ run: job.run }]);
  },
  60 * SECOND,
);

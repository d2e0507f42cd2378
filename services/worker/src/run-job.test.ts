import {
  connectQueueBackend,
  createPool,
  DatabaseClock,
  defineJob,
  done,
  JobCancelledError,
  JobTimeoutError,
  LeaseLostError,
  PermanentError,
  RateLimitedError,
  SECOND,
  skipped,
  type EffectRequest,
  type JobContext,
  type JobHandler,
  type JobDefinition,
  type Outcome,
  type QueueBackend,
  type SharedSettings,
} from '@outbox/core';
import { captureLogs, createTestDatabase, createTestPrefix, startFaultProxy, waitFor } from '@outbox/testing';
import { runMigrations, type Job } from 'bullmq';
import pg from 'pg';
import { z } from 'zod';
import { createClaim } from './claim.ts';
import { HandedBackError } from './ending.ts';
import { createFinish } from './finish.ts';
import { Leases } from './leases.ts';
import { ProviderGate } from './provider-gate.ts';
import { RestoreWatch } from './restore-watch.ts';
import { parseJobId, runJob, type JobRunner } from './run-job.ts';
import {
  addJobType,
  addRow,
  createGate,
  JOB,
  QUEUE,
  readAttempts,
  readRow,
  requestCancel,
  takeOver,
  type JobTypeRequest,
  type RowRequest,
} from './worker.fixture.ts';
import { Workers } from './workers.ts';

/** How Postgres says that a transaction has committed. */
const COMMITTED = 'COMMIT\0';

const FOLLOW_UP = 'test_follow_up';
/** Catalogued in the database, but no handler here knows it. */
const FROM_THE_FUTURE = 'test_from_the_future';

const definitions = [JOB, FOLLOW_UP].map((name) =>
  defineJob({
    name,
    family: 'test',
    queue: QUEUE,
    description: 'Does what the test says',
    payload: z.object({ n: z.number().default(0) }),
    key: ({ n }) => String(n),
    unique: 'none',
    timings: { production: { delayMs: 0, backoffMs: 0 }, demo: { delayMs: 0, backoffMs: 0 } },
    attempts: 3,
    retentionDays: 1,
  }),
);
const followUp = definitions.find(({ name }) => name === FOLLOW_UP) as JobDefinition;

type Handle = (context: JobContext, payload: unknown) => Promise<Outcome>;

interface Options {
  job?: JobTypeRequest;
  leaseMs?: number;
}

async function setup(kind: QueueBackend['kind'], { job = {}, leaseMs = 5 * SECOND }: Options = {}) {
  const database = await createTestDatabase();
  const { pool } = database;
  if (kind === 'postgres') await migrateBullMq(database.url);
  await addJobType(pool, job);
  await addJobType(pool, { name: FOLLOW_UP });
  await addJobType(pool, { name: FROM_THE_FUTURE });
  await pool.query('create table public.facts (fact text not null)');

  const keys = createTestPrefix();
  const settings: SharedSettings = {
    DATABASE_URL: database.url,
    OUTBOX_INSTANCE: 'test',
    QUEUE_BACKEND: kind,
    REDIS_URL: keys.redisUrl,
    QUEUE_PREFIX: keys.prefix,
    DATABASE_POOLED: false,
    LOG_LEVEL: 'error',
  };
  const backend = await connectQueueBackend(settings, () => undefined);
  const queue = backend.createQueue(QUEUE);
  const proxy = await startFaultProxy(database.url);
  const stops: (() => Promise<void>)[] = [];

  /** A worker process in small; every call is another one. */
  const startWorker = async (workerId: string, handle: Handle, { clockOffsetMs = 0 } = {}) => {
    const { log, lines } = captureLogs();
    const ownPool = (max: number) =>
      createPool({
        url: proxy.url,
        applicationName: workerId,
        max,
        lockTimeoutMs: 1 * SECOND,
        onError: () => undefined,
      });
    const [workPool, leasePool] = [ownPool(4), ownPool(1)];
    const clock = new DatabaseClock(
      leasePool,
      () => undefined,
      () => Date.now() - clockOffsetMs,
    );
    await clock.measure();
    const restores = new RestoreWatch({ db: workPool, backend, log });
    const handBack = new AbortController();
    const leases = new Leases({ pool: leasePool, leaseMs, handBack: handBack.signal, log });
    const handler: JobHandler<JobDefinition, object> = (payload, context) => handle(context, payload);
    const runner: JobRunner<object> = {
      pool: workPool,
      clock,
      leases,
      providers: new ProviderGate(workPool, 50),
      claim: createClaim({ pool: workPool, workerId, leaseMs, maxBatch: 50, restores }),
      finish: createFinish(workPool, 50),
      findDefinition: (name) => definitions.find((definition) => definition.name === name),
      findHandler: (name) => (name === FROM_THE_FUTURE ? undefined : handler),
      dependencies: {},
      handBack: handBack.signal,
      log,
    };
    const workers = new Workers({
      backend,
      queues: [QUEUE],
      concurrency: 5,
      leaseMs,
      stalledIntervalMs: 1 * SECOND,
      clock,
      restores,
      run: (bullJob, token) => runJob(bullJob, token, runner),
      log,
    });
    leases.start();
    workers.start();
    let stopped: Promise<void> | undefined;
    const stop = () =>
      (stopped ??= (async () => {
        const drained = workers.close();
        handBack.abort(new HandedBackError('The worker stops.'));
        await drained;
        await leases.stop();
        await Promise.all([workPool.end(), leasePool.end()]);
      })());
    stops.push(stop);
    return { lines, stop };
  };

  /** Gives BullMQ the job of a row, as the bridge does. */
  const publish = (id: string, { name = JOB, payload = {}, generation = 1 }: RowRequest = {}) =>
    queue.add(name, payload, { jobId: `${id}-${generation}`, attempts: 1_000, backoff: { type: 'row' } });

  return {
    pool,
    proxy,
    queue,
    startWorker,
    publish,
    addAndPublish: async (request: RowRequest = {}) => {
      const id = await addRow(pool, request);
      await publish(id, request);
      return id;
    },
    facts: async () => {
      const { rows } = await pool.query<{ fact: string }>('select fact from public.facts order by fact');
      return rows.map(({ fact }) => fact);
    },
    close: async () => {
      await Promise.all(stops.map((stop) => stop()));
      await queue.close();
      await backend.close();
      await proxy.close();
      await keys.removeKeys();
      await database.drop();
    },
  };
}

async function migrateBullMq(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await runMigrations(client);
  await client.end();
}

describe.each(['redis', 'postgres'] as const)('on the %s backend', (kind) => {
  type Bundle = Awaited<ReturnType<typeof setup>>;
  const open: Bundle[] = [];

  async function start(options?: Options): Promise<Bundle> {
    const bundle = await setup(kind, options);
    open.push(bundle);
    return bundle;
  }

  afterEach(async () => {
    for (const bundle of open.splice(0)) await bundle.close();
  });

  /** Waits until BullMQ's job of the row is in `state`. */
  function untilBullMq({ queue }: Bundle, jobId: string, state: string): Promise<Job> {
    return waitFor(async () => {
      expect(await queue.getJobState(jobId)).toBe(state);
      const job = await queue.getJob(jobId);
      if (!job) throw new Error(`BullMQ has no job ${jobId}`);
      return job;
    });
  }

  const outcomesOf = async ({ pool }: Bundle, id: string) =>
    (await readAttempts(pool, id)).map(({ attempt, outcome }) => [attempt, outcome]);

  describe('what a handler returns or throws', () => {
    it('done completes the job and the row', async () => {
      const bundle = await start();
      const seen: unknown[] = [];
      await bundle.startWorker('worker', (context, payload) => {
        seen.push([context.jobId, context.attempt, context.maxAttempts, payload]);
        return Promise.resolve(done({ sent: 1 }));
      });

      const id = await bundle.addAndPublish({ payload: { n: 7 } });

      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(job.returnvalue).toEqual({ completed: { sent: 1 } });
      expect(seen).toEqual([[id, 1, 3, { n: 7 }]]);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', attempt: 1, result: { sent: 1 } });
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it('is told how late it is, and how far it is goes into the row', async () => {
      const bundle = await start();
      const late: number[] = [];
      await bundle.startWorker('worker', (context) => {
        late.push(context.lateMs);
        for (const at of [1, 2, 3]) context.progress({ done: at, of: 3 });
        return context.complete(() => Promise.resolve(done()));
      });
      const id = await bundle.addAndPublish({ dueInMs: -90 * SECOND });
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(late[0]).toBeGreaterThanOrEqual(90 * SECOND);
      expect(late[0]).toBeLessThan(120 * SECOND);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', progress: { done: 3, of: 3 } });
    });

    it('takes name and payload from the row, not from BullMQ', async () => {
      const bundle = await start();
      const seen: unknown[] = [];
      await bundle.startWorker('worker', (_context, payload) => {
        seen.push(payload);
        return Promise.resolve(done());
      });
      const id = await addRow(bundle.pool, { payload: { n: 1 } });
      await bundle.publish(id, { name: FROM_THE_FUTURE, payload: { n: 'forged' } });
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(seen).toEqual([{ n: 1 }]);
    });

    it('skipped completes the job, and the row says why', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', () => Promise.resolve(skipped('nobody_left')));
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.returnvalue).toEqual({ skipped: 'nobody_left' });
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'skipped', reason: 'nobody_left' });
    });

    it('an error brings the job back when the row says, after its backoff, with honest attempts', async () => {
      const backoffMs = 200;
      const bundle = await start({ job: { backoffMs } });
      const runs: { at: number; dueMs: number }[] = [];
      await bundle.startWorker('worker', async (context) => {
        const { dueMs, nowMs } = await readRow(bundle.pool, context.jobId);
        runs.push({ at: nowMs, dueMs });
        if (context.attempt < 3) throw new Error(`failed ${context.attempt}`);
        return done();
      });

      const id = await bundle.addAndPublish();

      const waiting = await untilBullMq(bundle, `${id}-1`, 'delayed');
      expect(waiting).toMatchObject({ attemptsMade: 1, failedReason: 'Error: failed 1' });
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(3);
      expect(await outcomesOf(bundle, id)).toEqual([
        [1, 'retried'],
        [2, 'retried'],
        [3, 'completed'],
      ]);
      const [one, two, three] = runs.map(({ at, dueMs }) => {
        expect(at).toBeGreaterThanOrEqual(dueMs);
        return at;
      });
      // 200 and 400 ms, up to a quarter more; the rest is the machine's.
      expect((two ?? NaN) - (one ?? NaN)).toBeGreaterThanOrEqual(backoffMs);
      expect((two ?? NaN) - (one ?? NaN)).toBeLessThan(backoffMs * 1.25 + 600);
      expect((three ?? NaN) - (two ?? NaN)).toBeGreaterThanOrEqual(2 * backoffMs);
      expect((three ?? NaN) - (two ?? NaN)).toBeLessThan(2 * backoffMs * 1.25 + 600);
    });

    it('the error of the last attempt fails the job and the row', async () => {
      const bundle = await start({ job: { backoffMs: 10 } });
      await bundle.startWorker('worker', () => Promise.reject(new Error('still broken')));
      const id = await bundle.addAndPublish({ maxAttempts: 2 });
      const job = await untilBullMq(bundle, `${id}-1`, 'failed');
      expect(job).toMatchObject({ attemptsMade: 2, failedReason: 'Error: still broken' });
      expect(await readRow(bundle.pool, id)).toMatchObject({
        state: 'failed',
        reason: 'attempts_spent',
        attempt: 2,
        lastError: 'Error: still broken',
      });
    });

    it('PermanentError fails both at once', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', () => Promise.reject(new PermanentError('opted out', { code: 'opted_out' })));
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'failed');
      expect(job.attemptsMade).toBe(1);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'failed', reason: 'opted_out', attempt: 1 });
    });

    it('RateLimitedError parks the job: it comes back at the instant, and no attempt is spent', async () => {
      const bundle = await start();
      const attempts: number[] = [];
      await bundle.startWorker('worker', (context) => {
        attempts.push(context.attempt);
        return attempts.length === 1 ? Promise.reject(new RateLimitedError('429', 400)) : Promise.resolve(done());
      });

      const id = await bundle.addAndPublish({ maxAttempts: 1 });

      const parked = await untilBullMq(bundle, `${id}-1`, 'delayed');
      expect(parked.attemptsMade).toBe(0);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'published', attempt: 0 });
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(attempts).toEqual([1, 1]);
      expect(await outcomesOf(bundle, id)).toEqual([
        [1, 'parked'],
        [1, 'completed'],
      ]);
    });

    it.each([
      ['a payload that does not parse', { payload: { n: 'text' } }, 'invalid_payload'],
      ['a job that nobody handles here', { name: FROM_THE_FUTURE }, 'unknown_job'],
    ])('%s goes back for a newer worker: nothing fails, no attempt is spent, and it is counted', async (...given) => {
      const [, request, reason] = given;
      const bundle = await start();
      let calls = 0;
      const { stop } = await bundle.startWorker('too old', () => {
        calls += 1;
        return Promise.resolve(done());
      });
      const id = await bundle.addAndPublish({ ...request, maxAttempts: 1 });
      const parked = await untilBullMq(bundle, `${id}-1`, 'delayed');
      expect(calls).toBe(0);
      expect(parked.attemptsMade).toBe(0);
      const row = await readRow(bundle.pool, id);
      expect(row).toMatchObject({ state: 'published', attempt: 0, interruptions: 0, reason });
      expect(row.lastError).toContain('in this version');
      expect(row.dueMs - row.nowMs).toBeGreaterThan(25 * SECOND);
      expect(row.dueMs - row.nowMs).toBeLessThanOrEqual(30 * SECOND);
      expect(await readAttempts(bundle.pool, id)).toMatchObject([{ outcome: 'parked', reason }]);

      await stop();
      await bundle.pool.query("update outbox.jobs set name = $2, payload = '{}', scheduled_at = now() where id = $1", [
        id,
        JOB,
      ]);
      await bundle.startWorker('newer', () => Promise.resolve(done()));
      await parked.promote();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', attempt: 1, reason: null });
    });

    it('a result that cannot be written does not keep the row from ending', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', () => Promise.resolve(done({ big: 1n })));
      const id = await bundle.addAndPublish();
      await waitFor(async () => expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed' }));
      await untilBullMq(bundle, `${id}-1`, 'completed');
    });
  });

  describe('a handler that runs too long', () => {
    it('loses its attempt at the time-out, and nothing it does afterwards counts', async () => {
      const bundle = await start({ job: { timeoutMs: 150, backoffMs: 300 } });
      const goOn = createGate();
      const later: Record<string, unknown> = {};
      const finished = createGate();
      let calls = 0;
      const effect: EffectRequest = {
        key: 'too-late',
        provider: 'test',
        request: {},
        call: () => Promise.resolve(`ref-${(calls += 1)}`),
        lookUp: () => Promise.resolve(undefined),
        timeoutMs: 1 * SECOND,
      };
      await bundle.startWorker('worker', async (context) => {
        if (context.attempt > 1) return done();
        await goOn.opened;
        const attempt = async (name: string, work: () => Promise<unknown>) => {
          later[name] = await work().then(
            () => 'went through',
            (error: unknown) => error,
          );
        };
        await attempt('complete', () =>
          context.complete(async (tx) => {
            await tx.query(`insert into public.facts values ('too late')`);
            return done();
          }),
        );
        await attempt('effect', () => context.effect(effect));
        await attempt('db', () => context.db.query('select 1'));
        finished.open();
        return done({ ignored: true });
      });

      const id = await bundle.addAndPublish();
      await waitFor(async () => expect(await outcomesOf(bundle, id)).toEqual([[1, 'retried']]));
      goOn.open();
      await finished.opened;

      expect(later).toEqual({
        complete: expect.any(JobTimeoutError) as unknown,
        effect: expect.any(JobTimeoutError) as unknown,
        db: expect.any(JobTimeoutError) as unknown,
      });
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await bundle.facts()).toEqual([]);
      expect(calls).toBe(0);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', attempt: 2, result: null });
      expect((await readAttempts(bundle.pool, id))[0]).toMatchObject({
        error: expect.stringContaining('JobTimeoutError') as unknown,
      });
    });

    it('whose writes are under way at the time-out writes nothing', async () => {
      const bundle = await start({ job: { timeoutMs: 150, backoffMs: 50 } });
      const late = createGate();
      let failure: unknown;
      await bundle.startWorker('worker', (context) =>
        context
          .complete(async (tx) => {
            await tx.query('insert into public.facts values ($1)', [`attempt ${context.attempt}`]);
            if (context.attempt === 1) await late.opened;
            return done();
          })
          .catch((error: unknown) => {
            failure = error;
            throw error;
          }),
      );
      const id = await bundle.addAndPublish();
      await waitFor(async () => expect(await outcomesOf(bundle, id)).toContainEqual([1, 'retried']));
      late.open();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      await waitFor(() => expect(failure).toBeInstanceOf(JobTimeoutError));
      expect(await bundle.facts()).toEqual(['attempt 2']);
    });
  });

  describe('complete', () => {
    it('writes the domain change and the end of the row together, or neither', async () => {
      const bundle = await start({ job: { backoffMs: 50 } });
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          await tx.query('insert into public.facts values ($1)', [`attempt ${context.attempt}`]);
          if (context.attempt === 1) throw new Error('in the middle');
          return done({ facts: 1 });
        }),
      );
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await bundle.facts()).toEqual(['attempt 2']);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', result: { facts: 1 } });
      expect(await outcomesOf(bundle, id)).toEqual([
        [1, 'retried'],
        [2, 'completed'],
      ]);
    });

    it('whose commit Postgres refuses has not happened', async () => {
      const bundle = await start({ job: { backoffMs: 50 } });
      await bundle.pool.query(
        'alter table public.facts add constraint facts_are_unique unique (fact) deferrable initially deferred',
      );
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          await tx.query('insert into public.facts values ($1)', [`attempt ${context.attempt}`]);
          if (context.attempt === 1) await tx.query(`insert into public.facts values ('attempt 1')`);
          return done();
        }),
      );
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await bundle.facts()).toEqual(['attempt 2']);
      expect(await outcomesOf(bundle, id)).toEqual([
        [1, 'retried'],
        [2, 'completed'],
      ]);
    });

    it('is repeated after its connection broke, and commits once', async () => {
      const bundle = await start();
      let writes = 0;
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          writes += 1;
          await tx.query(`insert into public.facts values ('once')`);
          if (writes === 1) await tx.query('select pg_terminate_backend(pg_backend_pid())');
          return done();
        }),
      );
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(writes).toBe(2);
      expect(await bundle.facts()).toEqual(['once']);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it.each([
      ['does it all again', () => done()],
      ['finds the job done and says so', (writes: number) => (writes === 1 ? done() : skipped('already_done'))],
      [
        'stumbles over the first',
        (writes: number) => {
          if (writes > 1) throw new Error('duplicate key');
          return done();
        },
      ],
    ])('whose commit got no answer has happened once, when the repetition %s', async (_title, outcomeOf) => {
      const bundle = await start();
      let writes = 0;
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          writes += 1;
          await tx.query(`insert into public.facts values ('once')`);
          if (writes === 1) bundle.proxy.loseNextAnswer(COMMITTED);
          return outcomeOf(writes);
        }),
      );
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(writes).toBe(2);
      expect(job.attemptsMade).toBe(1);
      expect(job.returnvalue).toHaveProperty('completed');
      expect(await bundle.facts()).toEqual(['once']);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', attempt: 1 });
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it('whose commit is under way at the time-out is the truth', async () => {
      const bundle = await start({ job: { timeoutMs: 200, backoffMs: 50 } });
      await bundle.pool.query(`
        create function public.take_long() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return null; end';
        create constraint trigger take_long after insert on public.facts deferrable initially deferred
          for each row execute function public.take_long()`);
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          await tx.query('insert into public.facts values ($1)', [`attempt ${context.attempt}`]);
          return done();
        }),
      );
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(await bundle.facts()).toEqual(['attempt 1']);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it('waits for a transaction that has the row locked, and writes once', async () => {
      const bundle = await start();
      const business = await bundle.pool.connect();
      const locked = createGate();
      let writes = 0;
      await bundle.startWorker('worker', async (context) => {
        await business.query('begin');
        await business.query('select from outbox.jobs where id = $1 for update', [context.jobId]);
        return context.complete(async (tx) => {
          writes += 1;
          await tx.query(`insert into public.facts values ('once')`);
          if (writes === 3) locked.open();
          return done();
        });
      });
      const id = await bundle.addAndPublish();
      await locked.opened;
      expect(await bundle.facts()).toEqual([]);
      await business.query('rollback');
      business.release();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await bundle.facts()).toEqual(['once']);
    });

    it('that has committed stays committed when the handler throws afterwards', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', async (context) => {
        await context.complete(async (tx) => {
          await tx.query(`insert into public.facts values ('done')`);
          return done({ truth: true });
        });
        throw new Error('too late to matter');
      });
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.returnvalue).toEqual({ completed: { truth: true } });
      expect(await bundle.facts()).toEqual(['done']);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it('may be called once; a second call writes nothing', async () => {
      const bundle = await start();
      let second: unknown;
      await bundle.startWorker('worker', async (context) => {
        const write = (fact: string) =>
          context.complete(async (tx) => {
            await tx.query('insert into public.facts values ($1)', [fact]);
            return done(fact);
          });
        const outcome = await write('first');
        second = await write('second').catch((error: unknown) => error);
        return outcome;
      });
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(second).toBeInstanceOf(Error);
      expect(await bundle.facts()).toEqual(['first']);
      expect(await readRow(bundle.pool, id)).toMatchObject({ result: 'first' });
    });

    it('enqueues a follow-up that exists if and only if it commits', async () => {
      const bundle = await start({ job: { backoffMs: 50 } });
      const ids: string[] = [];
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          ids.push(await tx.enqueue(followUp, { payload: { n: context.attempt } }));
          if (context.attempt === 1) throw new Error('in the middle');
          return done();
        }),
      );
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      const { rows } = await bundle.pool.query(
        `select j.id, j.state, j.key, j.payload, r.generation as ready
         from outbox.jobs j left join outbox.ready r on r.job_id = j.id
         where j.name = $1`,
        [FOLLOW_UP],
      );
      expect(ids).toHaveLength(2);
      expect(rows).toEqual([{ id: ids[1], state: 'pending', key: '2', payload: { n: 2 }, ready: 1 }]);
    });
  });

  describe('an effect', () => {
    it('made in an attempt that failed afterwards is not made again by the next', async () => {
      const bundle = await start({ job: { backoffMs: 30 } });
      let calls = 0;
      const outcomes: unknown[] = [];
      await bundle.startWorker('worker', async (context) => {
        outcomes.push(
          await context.effect({
            key: 'text:1',
            provider: 'test',
            request: {},
            call: () => Promise.resolve(`ref-${(calls += 1)}`),
            lookUp: () => Promise.resolve(undefined),
            timeoutMs: 1 * SECOND,
          }),
        );
        if (context.attempt === 1) throw new Error('after the text');
        return done();
      });
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(calls).toBe(1);
      expect(outcomes).toEqual(Array(2).fill({ state: 'confirmed', reference: 'ref-1' }));
    });

    it('that may have happened in the last attempt keeps the row open until that is decided', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', async (context) => {
        await context.effect({
          key: 'text:2',
          provider: 'test',
          request: {},
          call: () => Promise.reject(new Error('no answer')),
          lookUp: () => Promise.resolve(undefined),
          timeoutMs: 1 * SECOND,
        });
        return done();
      });
      const id = await bundle.addAndPublish({ maxAttempts: 1 });
      await untilBullMq(bundle, `${id}-1`, 'delayed');
      const { state, dueMs, nowMs } = await readRow(bundle.pool, id);
      expect(state).toBe('published');
      // Long enough for a look-up to be believed.
      expect(dueMs).toBeGreaterThan(nowMs + 10 * SECOND);
    });
  });

  describe('a call that is under way', () => {
    /** Runs a job of one attempt whose call `answer` answers, and returns its context once the call has begun. */
    async function startCalling(bundle: Bundle, answer: (signal: AbortSignal) => Promise<string>) {
      const begun = createGate();
      await bundle.startWorker('worker', async (context) => {
        await context.effect({
          key: 'text:3',
          provider: 'test',
          request: {},
          call: (signal) => {
            begun.open();
            return answer(signal);
          },
          lookUp: () => Promise.resolve(undefined),
          timeoutMs: 10 * SECOND,
        });
        return done();
      });
      const id = await bundle.addAndPublish({ maxAttempts: 1 });
      await begun.opened;
      return id;
    }

    const untilAborted = (signal: AbortSignal) =>
      new Promise<string>((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason as Error));
      });

    it.each([
      ['heeds', untilAborted],
      ['ignores', () => createGate().opened.then(() => 'never')],
    ])(
      'when the last attempt runs out of time keeps the row open (a call that %s its signal)',
      async (_title, answer) => {
        const bundle = await start({ job: { timeoutMs: 200 } });
        const id = await startCalling(bundle, answer);
        await untilBullMq(bundle, `${id}-1`, 'delayed');
        expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'published', finishedMs: null });
      },
    );

    it('when its job is cancelled keeps the row open until it is decided', async () => {
      const bundle = await start({ leaseMs: 600 });
      const id = await startCalling(bundle, untilAborted);
      await requestCancel(bundle.pool, id);
      await waitFor(async () => expect(await outcomesOf(bundle, id)).toHaveLength(1));
      expect(await readRow(bundle.pool, id)).toMatchObject({ finishedMs: null });
    });
  });

  describe('a delivery that is not to be run', () => {
    it('of an older life of a row is dropped', async () => {
      const bundle = await start();
      const seen: string[] = [];
      await bundle.startWorker('worker', (context) => {
        seen.push(context.jobId);
        return Promise.resolve(done());
      });
      const id = await addRow(bundle.pool, { generation: 2 });
      await bundle.publish(id, { generation: 1 });
      await bundle.publish(id, { generation: 2 });
      await bundle.publish(id, { generation: 3 });

      await untilBullMq(bundle, `${id}-2`, 'completed');
      for (const generation of [1, 3]) {
        const job = await untilBullMq(bundle, `${id}-${generation}`, 'completed');
        expect(job.returnvalue).toEqual({ dropped: 'superseded' });
      }
      expect(seen).toEqual([id]);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it.each([
      ['of a row that has ended', async (bundle: Bundle) => addRow(bundle.pool, { state: 'cancelled' }), 'finished'],
      ['of a row that is gone', () => Promise.resolve('987654'), 'missing'],
    ])('%s is dropped', async (_title, addTheRow, reason) => {
      const bundle = await start();
      await bundle.startWorker('worker', () => Promise.reject(new Error('was run')));
      const id = await addTheRow(bundle);
      await bundle.publish(id);
      expect((await untilBullMq(bundle, `${id}-1`, 'completed')).returnvalue).toEqual({ dropped: reason });
    });

    it('before the row is due waits for the row, without an attempt', async () => {
      const bundle = await start();
      const runs: { at: number; dueMs: number }[] = [];
      await bundle.startWorker('worker', async (context) => {
        const { nowMs, dueMs } = await readRow(bundle.pool, context.jobId);
        runs.push({ at: nowMs, dueMs });
        return done();
      });
      const id = await bundle.addAndPublish({ dueInMs: 500 });
      await untilBullMq(bundle, `${id}-1`, 'delayed');
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(runs).toHaveLength(1);
      expect(runs[0]?.at).toBeGreaterThanOrEqual(runs[0]?.dueMs ?? NaN);
    });
  });

  describe('a run that loses its row', () => {
    it('is aborted, ends nothing, and the row runs again once the other lease is over', async () => {
      const bundle = await start({ leaseMs: 1 * SECOND });
      const reasons: unknown[] = [];
      await bundle.startWorker('worker', async (context) => {
        if (reasons.length > 0) return done('second');
        const id = context.jobId;
        const { run } = await readRow(bundle.pool, id);
        await takeOver(bundle.pool, { id, run } as Parameters<typeof takeOver>[1]);
        await bundle.pool.query(`update outbox.jobs set locked_until = now() + interval '700 ms' where id = $1`, [id]);
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
        reasons.push(context.signal.reason);
        return done('first');
      });
      const id = await bundle.addAndPublish();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(reasons).toEqual([expect.any(LeaseLostError)]);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'completed', result: 'second', interruptions: 1 });
      expect(await outcomesOf(bundle, id)).toEqual([
        [1, 'interrupted'],
        [1, 'completed'],
      ]);
    });

    it('because it is cancelled is aborted and ends cancelled', async () => {
      const bundle = await start({ leaseMs: 1 * SECOND });
      const reasons: unknown[] = [];
      await bundle.startWorker('worker', async (context) => {
        await requestCancel(bundle.pool, context.jobId);
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
        reasons.push(context.signal.reason);
        return done();
      });
      const id = await bundle.addAndPublish();
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(reasons).toEqual([expect.any(JobCancelledError)]);
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'cancelled' });
    });
  });

  describe('a run of a job that was cancelled before it', () => {
    it.each([
      ['completing', 'rolls back what it wrote, and ends cancelled', done(), 'cancelled', []],
      ['skipping', 'keeps what it noted', skipped('stopped'), 'skipped', ['noted']],
    ] as const)('%s %s', async (_how, _what, outcome, state, facts) => {
      const bundle = await start();
      await bundle.startWorker('worker', (context) =>
        context.complete(async (tx) => {
          await tx.query("insert into public.facts values ('noted')");
          return outcome;
        }),
      );
      const id = await addRow(bundle.pool, { state: 'active', leaseInMs: -1 * SECOND });
      await requestCancel(bundle.pool, id);
      await bundle.publish(id);
      await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(await readRow(bundle.pool, id)).toMatchObject({ state });
      expect(await bundle.facts()).toEqual(facts);
    });
  });

  describe('a worker that stops', () => {
    it('hands its jobs back with their attempt, and another worker runs them', async () => {
      const bundle = await start();
      const begun = createGate();
      const first = await bundle.startWorker('first', async (context) => {
        begun.open();
        await new Promise((_resolve, reject) =>
          context.signal.addEventListener('abort', () => reject(context.signal.reason as Error)),
        );
        return done();
      });
      const id = await bundle.addAndPublish({ maxAttempts: 1 });
      await begun.opened;
      await first.stop();
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'published', attempt: 0, lockedBy: null });

      await bundle.startWorker('second', () => Promise.resolve(done()));

      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(await readAttempts(bundle.pool, id)).toMatchObject([
        { attempt: 1, outcome: 'handed_back', worker: 'first' },
        { attempt: 1, outcome: 'completed', worker: 'second' },
      ]);
    });

    it('while its handler ignores the signal hands the job back all the same', async () => {
      const bundle = await start();
      const begun = createGate();
      const never = createGate();
      const first = await bundle.startWorker('first', async () => {
        begun.open();
        await never.opened;
        return done();
      });
      const id = await bundle.addAndPublish();
      await begun.opened;
      await first.stop();
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'handed_back']]);
      never.open();
    });
  });

  describe('while Postgres is away', () => {
    it('a claim waits, and BullMQ hears of no failure', async () => {
      const bundle = await start();
      await bundle.startWorker('worker', () => Promise.resolve(done()));
      const id = await addRow(bundle.pool);
      await bundle.proxy.cut();
      await bundle.publish(id);
      await untilBullMq(bundle, `${id}-1`, 'active');
      await bundle.proxy.restore();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });

    it('a finished handler is not run again: its end is written when Postgres is back', async () => {
      const bundle = await start();
      const isCut = createGate();
      let runs = 0;
      await bundle.startWorker('worker', async () => {
        runs += 1;
        await bundle.proxy.cut();
        isCut.open();
        return done();
      });
      const id = await bundle.addAndPublish();
      await isCut.opened;
      expect(await readRow(bundle.pool, id)).toMatchObject({ state: 'active' });
      await bundle.proxy.restore();
      const job = await untilBullMq(bundle, `${id}-1`, 'completed');
      expect(job.attemptsMade).toBe(1);
      expect(runs).toBe(1);
      expect(await outcomesOf(bundle, id)).toEqual([[1, 'completed']]);
    });
  });

  it('a worker whose clock is off takes no jobs; the others do', async () => {
    const bundle = await start();
    await bundle.startWorker('off', () => Promise.resolve(done()), { clockOffsetMs: 5 * SECOND });
    await bundle.startWorker('right', () => Promise.resolve(done()));
    const ids: string[] = [];
    for (let n = 0; n < 10; n += 1) ids.push(await bundle.addAndPublish());
    for (const id of ids) await untilBullMq(bundle, `${id}-1`, 'completed');
    for (const id of ids) expect(await readAttempts(bundle.pool, id)).toMatchObject([{ worker: 'right' }]);
  });

  it('logs one line per attempt, with what it came to', async () => {
    const bundle = await start({ job: { backoffMs: 20 } });
    const { lines } = await bundle.startWorker('worker', (context) =>
      context.attempt === 1 ? Promise.reject(new Error('once')) : Promise.resolve(skipped('enough')),
    );
    const id = await bundle.addAndPublish();
    await untilBullMq(bundle, `${id}-1`, 'completed');
    const job = { outboxId: id, jobId: `${id}-1`, jobName: JOB, queue: QUEUE, maxAttempts: 3 };
    expect(lines.filter(({ msg }) => msg === 'attempt ended')).toMatchObject([
      { ...job, level: 'warn', attempt: 1, outcome: 'retried', err: { message: 'once' } },
      { ...job, level: 'info', attempt: 2, outcome: 'skipped', reason: 'enough' },
    ]);
  });
});

it.each([
  ['12-3', { id: '12', generation: 3 }],
  ['12', undefined],
  ['repeat:x:1', undefined],
  ['12-3-4', undefined],
  ['a-1', undefined],
  [undefined, undefined],
])('the job id %s names the row and generation %j', (jobId, delivery) => {
  expect(parseJobId(jobId)).toEqual(delivery);
});

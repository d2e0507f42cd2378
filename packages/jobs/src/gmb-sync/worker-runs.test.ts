import { randomUUID } from 'node:crypto';
import { only, rowsOf, useGmb, type Row } from './gmb.fixture.ts';

const gmb = useGmb();

afterEach(async () => {
  await gmb.database.pool.query(
    'delete from outbox.jobs; delete from outbox.attempts; delete from gmb.sync_worker_runs',
  );
});

const sweep = () => gmb.database.pool.query('select gmb.sweep()');
const runs = () => rowsOf(gmb.database.pool, 'select * from gmb.sync_worker_runs order by started_at, worker');

interface AttemptWish {
  worker?: string;
  outcome?: string;
  /** Seconds after the beginning of a minute two minutes ago. */
  from?: number;
  to?: number;
}

/** An ended attempt of a sync of its own. */
async function addAttempt({ worker = 'worker 1', outcome = 'completed', from = 10, to = 20 }: AttemptWish = {}) {
  const isOver = outcome === 'completed' || outcome === 'failed';
  const { id } = await gmb.add({}, 'publish', 'claim', isOver ? outcome : 'retry');
  const at = (s: number) => `date_trunc('minute', now()) - interval '2 minutes' + ${s} * interval '1 s'`;
  await gmb.database.pool.query(
    `with started as (
       update outbox.jobs set started_at = ${at(from)} where id = outbox.job_id($1) returning id, run, started_at
     )
     insert into outbox.attempts (job_id, run, attempt, worker, started_at, finished_at, outcome, error)
     select id, run, 1, $2, started_at, ${at(to)}, $3, case when $3 in ('failed', 'retried') then 'no' end from started`,
    [id, worker, outcome],
  );
  return id;
}

describe('what workers did', () => {
  test('is one row for each worker and minute, with its counts and the result of each job', async () => {
    const id = await addAttempt({ from: 5, to: 15 });
    await addAttempt({ outcome: 'failed', from: 20, to: 50 });
    await addAttempt({ outcome: 'retried' });
    await addAttempt({ outcome: 'parked' });
    await addAttempt({ worker: 'worker 2' });
    await addAttempt({ from: 70, to: 80 });
    await sweep();
    const [first, ...others] = await runs();
    expect(first).toMatchObject({
      ...{ status: 'completed', jobs_picked: 4, jobs_processed: 3, jobs_succeeded: 1, jobs_failed: 2, notes: null },
      ...{ worker: 'worker 1', metadata: { worker: 'worker 1' } },
    });
    expect(Number(first?.finished_at) - Number(first?.started_at)).toBe(45_000);
    expect(first?.metadata).toMatchObject({
      jobs: expect.arrayContaining([
        expect.objectContaining({ job_id: id, sync_type: 'full', outcome: 'completed', duration_ms: 10_000 }),
        expect.objectContaining({ outcome: 'failed', error: 'no' }),
      ]) as unknown,
    });
    expect(others.map(({ worker, jobs_picked: picked }) => [worker, picked])).toEqual([
      ...[
        ['worker 2', 1],
        ['worker 1', 1],
      ],
    ]);
  });

  test('is the same when it is worked out again, and grows when more is known', async () => {
    await addAttempt();
    await sweep();
    const before = await runs();
    await sweep();
    expect(await runs()).toEqual(before);
    await addAttempt();
    await sweep();
    expect(await runs()).toMatchObject([{ id: before[0]?.id, jobs_picked: 2 }]);
  });

  test('is running as long as one of its jobs is, and completed afterwards', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim');
    await sweep();
    expect(await runs()).toMatchObject([{ status: 'running', jobs_picked: 1, jobs_processed: 0, finished_at: null }]);
    await gmb.database.pool.query(
      `insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome)
       select j.id, j.run, 1, j.locked_by, j.started_at, 'completed' from outbox.jobs j where j.id = outbox.job_id($1)`,
      [id],
    );
    await gmb.change(id, 'completed');
    await sweep();
    expect(await runs()).toMatchObject([
      { status: 'completed', jobs_processed: 1, finished_at: expect.any(Date) as Date },
    ]);
  });

  test('has failed once the lease of one of its jobs is over: nobody hears the worker any more', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim', 'away');
    await sweep();
    const failed = { status: 'failed', notes: expect.stringContaining('Heartbeat lost') as string };
    expect(await runs()).toMatchObject([{ ...failed, finished_at: expect.any(Date) as Date }]);

    // Another worker takes the job over: that stays, in a row of the first.
    await gmb.database.pool.query(
      `insert into outbox.attempts (job_id, run, attempt, worker, started_at, outcome)
       select j.id, j.run, 1, j.locked_by, j.started_at, 'interrupted' from outbox.jobs j where j.id = outbox.job_id($1)`,
      [id],
    );
    await gmb.change(id, 'claim');
    await gmb.database.pool.query(`update outbox.jobs set locked_by = 'worker 2'`);
    await sweep();
    expect(await runs()).toMatchObject([
      { ...failed, worker: 'worker 1' },
      { status: 'running', worker: 'worker 2' },
    ]);
  });

  test('is not lost when nobody swept for a while, nor for another family', async () => {
    await addAttempt();
    await gmb.database.pool.query(
      `update outbox.attempts set started_at = started_at - interval '5 hours', finished_at = finished_at - interval '5 hours'`,
    );
    await gmb.database.pool.query(`update outbox.jobs set started_at = started_at - interval '5 hours'`);
    await sweep();
    expect(await runs()).toHaveLength(1);
    await gmb.database.pool.query(`update outbox.jobs set name = 'reminder_24h'; delete from gmb.sync_worker_runs`);
    await sweep();
    expect(await runs()).toEqual([]);
  });
});

describe('an HTTP trigger', () => {
  const begin = async (id?: string) =>
    only(
      await rowsOf(
        gmb.database.pool,
        id ? 'select gmb.begin_worker_run($1) as id' : 'select gmb.begin_worker_run() as id',
        id ? [id] : [],
      ),
    ).id;
  const finish = (id: unknown) =>
    rowsOf(
      gmb.database.pool,
      `select gmb.finish_worker_run(
         run_id => $1, picked => 3, processed => 3, succeeded => 2, failed => 1, notes => null, metadata => '{"a": 1}'
       )`,
      [id],
    );

  test('is one row, from its beginning to its end', async () => {
    const id = await begin();
    expect(await runs()).toMatchObject([{ id, status: 'running', finished_at: null, worker: null }]);
    await finish(id);
    expect(await runs()).toMatchObject([
      {
        ...{ id, status: 'completed', jobs_picked: 3, jobs_processed: 3, jobs_succeeded: 2, jobs_failed: 1 },
        ...{ metadata: { a: 1 }, finished_at: expect.any(Date) as Date },
      },
    ]);
  });

  test('that begins twice under one id is one run', async () => {
    const id = randomUUID();
    expect([await begin(id), await begin(id)]).toEqual([id, id]);
    expect(await runs()).toHaveLength(1);
  });

  test('that never began cannot end', async () => {
    await expect(finish(randomUUID())).rejects.toMatchObject({ code: 'OB002' });
  });

  test('that never says how it ended has failed after five minutes, and not before', async () => {
    await begin();
    const begunAgo = (minutes: number) =>
      gmb.database.pool.query(`update gmb.sync_worker_runs set started_at = now() - $1 * interval '1 minute'`, [
        minutes,
      ]);
    await begunAgo(4);
    await sweep();
    expect(await runs()).toMatchObject([{ status: 'running' }]);
    await begunAgo(6);
    await sweep();
    expect(await runs()).toMatchObject([{ status: 'failed', notes: expect.stringContaining('Heartbeat') as string }]);
  });
});

test('runs are kept for thirty days', async () => {
  const add = (days: number): Promise<Row[]> =>
    rowsOf(
      gmb.database.pool,
      `insert into gmb.sync_worker_runs (status, started_at) values ('completed', now() - $1 * interval '1 day') returning id`,
      [days],
    );
  const kept = only(await add(29)).id;
  await add(31);
  await sweep();
  expect((await runs()).map(({ id }) => id)).toEqual([kept]);
});

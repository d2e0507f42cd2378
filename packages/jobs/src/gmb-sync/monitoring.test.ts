import { randomUUID } from 'node:crypto';
import { addAccount, only, rowsOf, useGmb, type Change, type Row } from './gmb.fixture.ts';

const gmb = useGmb();

/** Runs what the seed's users run, as they do: with the schema in the search path and the service's key. */
async function ask(sql: string): Promise<Row[]> {
  const client = await gmb.begin();
  await client.query('set local search_path = gmb, public');
  await client.query('set local role service_role');
  const rows = await rowsOf(client, sql);
  await client.query('commit');
  return rows;
}

// The queries of the seed, word for word.

const PENDING_JOBS = `
  SELECT COUNT(*) as pending_jobs
  FROM sync_queue
  WHERE status = 'pending';`;

const FAILED_JOBS = `
  SELECT account_id, last_error, attempts, completed_at
  FROM sync_queue
  WHERE status = 'failed'
    AND completed_at > NOW() - INTERVAL '24 hours'
  ORDER BY completed_at DESC;`;

const SUCCESS_RATE = `
  SELECT
    COUNT(*) FILTER (WHERE status = 'succeeded') as succeeded,
    COUNT(*) FILTER (WHERE status = 'failed') as failed,
    ROUND(100.0 * COUNT(*) FILTER (WHERE status = 'succeeded') / COUNT(*), 2) as success_rate
  FROM sync_queue
  WHERE completed_at > NOW() - INTERVAL '7 days';`;

const WORKER_PERFORMANCE = `
  SELECT
    status,
    AVG(jobs_processed) as avg_jobs_processed,
    AVG(jobs_succeeded) as avg_jobs_succeeded,
    AVG(EXTRACT(EPOCH FROM (finished_at - started_at))) as avg_duration_seconds
  FROM sync_worker_runs
  WHERE started_at > NOW() - INTERVAL '24 hours'
  GROUP BY status;`;

const PENDING_ROWS = `
  SELECT * FROM sync_queue WHERE status = 'pending';`;

const FAILING_REPEATEDLY = `
  SELECT id, account_id, attempts, max_attempts, last_error
  FROM sync_queue
  WHERE status = 'failed'
  ORDER BY completed_at DESC
  LIMIT 10;`;

/** `select=*&order=created_at.desc&limit=10` of both tables, as PostgREST asks it. */
const RECENT = (table: string) => `
  SELECT * FROM ${table} ORDER BY created_at DESC LIMIT 10;`;

const GOOD: Change[] = ['publish', 'claim', 'completed'];
const BAD: Change[] = ['publish', 'claim', 'failed'];

/** What the row says about when things happened. */
async function setTimes(id: string, times: Record<string, string>): Promise<void> {
  const assignments = Object.entries(times).map(([column, value]) => `${column} = ${value}`);
  await gmb.database.pool.query(`update outbox.jobs set ${assignments.join()} where id = outbox.job_id($1)`, [id]);
}

afterEach(async () => {
  await gmb.database.pool.query(
    'delete from outbox.jobs; delete from outbox.attempts; delete from gmb.sync_worker_runs',
  );
});

describe('the queries of the seed', () => {
  test('count and list what is pending', async () => {
    const waiting = [await gmb.add(), await gmb.add({}, 'publish'), await gmb.add({}, 'publish', 'claim', 'retry')];
    await gmb.add({}, 'publish', 'claim');
    await gmb.add({}, ...GOOD);
    expect(await ask(PENDING_JOBS)).toEqual([{ pending_jobs: '3' }]);
    expect((await ask(PENDING_ROWS)).map(({ id }) => id).sort()).toEqual(waiting.map(({ id }) => id).sort());
  });

  test('list what failed, the newest first', async () => {
    const { id: old } = await gmb.add({}, ...BAD);
    await setTimes(old, { finished_at: `now() - interval '25 hours'` });
    const first = await gmb.add({}, ...BAD);
    const second = await gmb.add({}, ...BAD);
    const failed = { last_error: 'Error: Google is down', attempts: 1 };
    expect(await ask(FAILED_JOBS)).toMatchObject([
      { account_id: second.account.id, ...failed },
      { account_id: first.account.id, ...failed },
    ]);
    expect((await ask(FAILING_REPEATEDLY)).map(({ id }) => id)).toEqual([second.id, first.id, old]);
  });

  test('give the success rate of seven days, which are all kept', async () => {
    for (const changes of [GOOD, GOOD, GOOD, BAD]) {
      const { id } = await gmb.add({}, ...changes);
      await setTimes(id, { finished_at: `now() - interval '6 days'` });
    }
    const { id: older } = await gmb.add({}, ...BAD);
    await setTimes(older, { finished_at: `now() - interval '8 days'` });
    expect(await ask(SUCCESS_RATE)).toEqual([{ succeeded: '3', failed: '1', success_rate: '75.00' }]);
  });

  test('give it with what was skipped among the succeeded, and without what was cancelled or is open', async () => {
    await gmb.add({}, ...BAD);
    for (const changes of [GOOD, ['publish', 'claim', 'skipped'], [], ['publish', 'claim', 'retry']] as Change[][]) {
      await gmb.add({}, ...changes);
    }
    const { id } = await gmb.add({}, 'publish');
    await gmb.database.pool.query(`select outbox.cancel_jobs(ids => array[outbox.job_id($1)], reason => 'r')`, [id]);
    expect(await ask(SUCCESS_RATE)).toEqual([{ succeeded: '2', failed: '1', success_rate: '66.67' }]);
  });

  test('give the work of the workers', async () => {
    await gmb.database.pool.query(`
      insert into gmb.sync_worker_runs (status, jobs_processed, jobs_succeeded, started_at, finished_at)
      values
        ('completed', 4, 3, now() - interval '60 s', now() - interval '50 s'),
        ('completed', 2, 1, now() - interval '30 s', now() - interval '10 s'),
        ('running', 0, 0, now(), null)`);
    const rows = await ask(WORKER_PERFORMANCE);
    expect(rows.map((row) => ({ ...row, processed: Number(row.avg_jobs_processed) }))).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ status: 'completed', processed: 3, avg_duration_seconds: '15.0000000000000000' }),
        expect.objectContaining({ status: 'running', processed: 0, avg_duration_seconds: null }),
      ]) as unknown,
    );
  });

  test('list what is recent', async () => {
    const first = await gmb.add();
    const second = await gmb.add();
    expect((await ask(RECENT('sync_queue'))).map(({ id }) => id)).toEqual([second.id, first.id]);
    expect(await ask(RECENT('sync_worker_runs'))).toEqual([]);
  });

  test('call the functions', async () => {
    expect(await ask('SELECT * FROM pick_sync_jobs(1);')).toEqual([]);
    expect(await ask('SELECT mark_stale_sync_jobs(10);')).toEqual([{ mark_stale_sync_jobs: 0 }]);
  });
});

describe("a user's queue", () => {
  const queueOf = async (userId: string) =>
    only(await rowsOf(gmb.database.pool, 'select gmb.user_queue(user_id => $1) as queue', [userId])).queue;

  test('is what the API answers: counts of all that is kept, and the jobs in the words of the seed', async () => {
    const { id, account } = await gmb.add({}, ...GOOD);
    const next = await gmb.ask(account, { syncType: 'incremental' });
    await gmb.add();
    const row = await gmb.shown(id);
    expect(await queueOf(account.userId)).toEqual({
      stats: { total: 2, pending: 1, processing: 0, succeeded: 1, failed: 0 },
      jobs: [
        expect.objectContaining({ id: next.id, status: 'pending' }),
        {
          ...{ id, account_id: account.id, sync_type: 'full', status: 'succeeded', attempts: 1, max_attempts: 3 },
          ...{ created_at: expect.any(String) as string, scheduled_at: null },
        },
      ],
    });
    expect(row).toMatchObject({ status: 'succeeded' });
  });

  test('has the newest 50 jobs, counts them all, and shows no cancelled one', async () => {
    const userId = randomUUID();
    for (let n = 0; n < 52; n += 1) {
      await gmb.ask(await addAccount(gmb.database.pool, { userId }), { priority: n });
    }
    const account = await addAccount(gmb.database.pool, { userId });
    const { id } = await gmb.ask(account);
    await gmb.database.pool.query(`select outbox.cancel_jobs(ids => array[outbox.job_id($1)], reason => 'r')`, [id]);
    const queue = (await queueOf(userId)) as { stats: unknown; jobs: { id: string }[] };
    expect(queue.stats).toMatchObject({ total: 52, pending: 52 });
    expect(queue.jobs).toHaveLength(50);
    expect(queue.jobs.map((job) => job.id)).not.toContain(id);
  });

  test('of somebody who has none is empty', async () => {
    expect(await queueOf(randomUUID())).toEqual({
      ...{ stats: { total: 0, pending: 0, processing: 0, succeeded: 0, failed: 0 }, jobs: [] },
    });
  });
});

describe('the diagnostics', () => {
  interface Diagnostics {
    depth: Row;
    pending: { due: number; scheduled: number; oldest_due_age_seconds: number | null };
    last_hour: Row;
    stale: { count: number; jobs: Row[] };
    breakers: Row[];
    worker_runs: { last_hour: Row; recent: Row[] };
    alerts: { name: string; firing: boolean; value: number | null; threshold: number }[];
  }

  const diagnose = async () => (await ask('select gmb.queue_diagnostics() as answer'))[0]?.answer as Diagnostics;
  const firing = async () => (await diagnose()).alerts.filter((alert) => alert.firing).map(({ name }) => name);

  test('of an empty queue say so, and no alert fires', async () => {
    const { alerts, ...rest } = await diagnose();
    expect(rest).toMatchObject({
      depth: { pending: 0, processing: 0, succeeded: 0, failed: 0 },
      pending: { due: 0, scheduled: 0, oldest_due_age_seconds: null },
      last_hour: { finished: 0, failed: 0, failure_rate: null },
      stale: { count: 0, jobs: [] },
      ...{ drift: 0, breakers: [], worker_runs: { recent: [] } },
    });
    expect(alerts.map(({ name }) => name)).toEqual([
      ...['high_failure_rate', 'stale_jobs', 'queue_backlog', 'worker_failures'],
    ]);
    expect(await firing()).toEqual([]);
  });

  test('tell depth, age and how long each stage took', async () => {
    const { id } = await gmb.add();
    await setTimes(id, { scheduled_at: `now() - interval '90 s'` });
    await gmb.add({ scheduledAt: new Date(Date.now() + 3_600_000).toISOString() });
    const { id: ended } = await gmb.add({}, ...GOOD);
    await setTimes(ended, {
      due_at: `now() - interval '60 s'`,
      published_at: `now() - interval '59 s'`,
      started_at: `now() - interval '50 s'`,
      finished_at: 'now()',
    });
    const { depth, pending, last_hour: lastHour } = await diagnose();
    expect(depth).toEqual({ pending: 2, processing: 0, succeeded: 1, failed: 0 });
    expect(pending).toMatchObject({ due: 1, scheduled: 1 });
    expect(pending.oldest_due_age_seconds).toBeGreaterThanOrEqual(90);
    expect(lastHour.latency_seconds).toMatchObject({
      ...{ due_to_published: { p50: 1 }, due_to_started: { p50: 10 }, started_to_finished: { p50: 50, p95: 50 } },
    });
  });

  test('alert to a high failure rate: more than 20 % of at least 5 that ended in the last hour', async () => {
    for (const changes of [BAD, BAD, GOOD, GOOD]) await gmb.add({}, ...changes);
    expect(await firing()).toEqual([]); // 50 % of too few
    for (let n = 0; n < 6; n += 1) await gmb.add({}, ...GOOD);
    expect(await firing()).toEqual([]); // 2 of 10
    const { id } = await gmb.add({}, ...BAD);
    expect(await firing()).toEqual(['high_failure_rate']); // 3 of 11
    await setTimes(id, { finished_at: `now() - interval '61 minutes'` });
    expect(await firing()).toEqual([]);
  });

  test('alert to stale jobs: processing for more than 15 minutes', async () => {
    const { id, account } = await gmb.add({}, 'publish', 'claim');
    await setTimes(id, { started_at: `now() - interval '14 minutes'` });
    expect(await firing()).toEqual([]);
    await setTimes(id, { started_at: `now() - interval '16 minutes'` });
    expect(await firing()).toEqual(['stale_jobs']);
    expect((await diagnose()).stale).toMatchObject({ count: 1, jobs: [{ id, account_id: account.id }] });
  });

  test('alert to a backlog: more than 50 that are due, whatever is planned for later', async () => {
    const later = new Date(Date.now() + 3_600_000).toISOString();
    for (let n = 0; n < 50; n += 1) await gmb.add();
    for (let n = 0; n < 20; n += 1) await gmb.add({ scheduledAt: later });
    expect(await firing()).toEqual([]);
    await gmb.add();
    expect(await firing()).toEqual(['queue_backlog']);
  });

  test('alert to failed worker runs of the last hour', async () => {
    await gmb.database.pool.query(
      `insert into gmb.sync_worker_runs (status, started_at) values ('failed', now() - interval '61 minutes')`,
    );
    expect(await firing()).toEqual([]);
    await gmb.database.pool.query(`insert into gmb.sync_worker_runs (status) values ('failed')`);
    expect(await firing()).toEqual(['worker_failures']);
    expect((await diagnose()).worker_runs).toMatchObject({ last_hour: { failed: 1 }, recent: [{}, {}] });
  });

  test('name the open breakers, and who has to wait', async () => {
    await gmb.database.pool.query(
      `insert into outbox.breakers (provider, tenant, state, probe_at, limited_until)
       values
         ('google', '', 'closed', null, now() + interval '1 minute'), ('google', 'a', 'open', now(), null),
         ('google', 'b', 'closed', null, now() - interval '1 s'), ('twilio', '', 'open', now(), null)`,
    );
    expect((await diagnose()).breakers).toMatchObject([
      { tenant: null, state: 'closed', limited_until: expect.any(String) as string },
      { tenant: 'a', state: 'open' },
    ]);
  });
});

import { waitFor } from '@outbox/testing';
import { addAccount, rowsOf, useGmb, type Row } from './gmb.fixture.ts';

const gmb = useGmb();

afterEach(() => gmb.database.pool.query('delete from outbox.jobs'));

async function call(sql: string, values?: unknown[]): Promise<Row[]> {
  const client = await gmb.begin();
  await client.query(`set local search_path = gmb, public`);
  await client.query('set local role service_role');
  const rows = await rowsOf(client, sql, values);
  await client.query('commit');
  return rows;
}

const pick = (limit = 10) => call('SELECT * FROM pick_sync_jobs($1)', [limit]);
const end = (id: unknown, status: string, error: string | null = null) =>
  call(`update sync_queue set status = $2, last_error = $3, completed_at = now() where id = $1 returning status`, [
    id,
    status,
    error,
  ]);

const inAnHour = () => new Date(Date.now() + 3_600_000).toISOString();

describe('pick_sync_jobs', () => {
  test('leases a sync for ten minutes and spends an attempt, in a new life that no worker has in BullMQ', async () => {
    const { id } = await gmb.add({}, 'publish');
    expect(await pick()).toMatchObject([
      { id, status: 'processing', attempts: 1, started_at: expect.any(Date) as Date },
    ]);
    const job = await gmb.job(id);
    expect(job).toMatchObject({ state: 'active', generation: 2, locked_by: 'rpc', holds_key: true });
    const leaseS = (Number(job.locked_until) - Date.now()) / 1_000;
    expect(leaseS).toBeGreaterThan(590);
    expect(leaseS).toBeLessThanOrEqual(601);
    expect((await gmb.bridgeWork(id)).removals).toEqual([1]);
  });

  test('gives out the highest priority first, then the oldest, no more than asked for', async () => {
    const ids: string[] = [];
    for (const priority of [0, -10, 20, 0]) ids.push((await gmb.add({ priority })).id);
    expect((await pick(3)).map(({ id }) => id)).toEqual([ids[2], ids[0], ids[3]]);
    expect((await pick()).map(({ id }) => id)).toEqual([ids[1]]);
  });

  test('leaves out what is not due, running, ended, out of attempts, or paused', async () => {
    await gmb.add({ scheduledAt: inAnHour() });
    await gmb.add({}, 'publish', 'claim');
    await gmb.add({}, 'publish', 'claim', 'completed');
    const { id } = await gmb.add({ maxAttempts: 1 });
    await gmb.database.pool.query('update outbox.jobs set attempt = 1 where id = outbox.job_id($1)', [id]);
    expect(await pick()).toEqual([]);

    const { id: due } = await gmb.add();
    await gmb.database.pool.query(`select outbox.pause_queue(name => 'gmb-sync', paused_by => 'test')`);
    expect(await pick()).toEqual([]);
    await gmb.database.pool.query(`select outbox.resume_queue(name => 'gmb-sync')`);
    await gmb.database.pool.query(`select outbox.pause_provider(name => 'google', paused_by => 'test')`);
    expect(await pick()).toEqual([]);
    await gmb.database.pool.query(`select outbox.resume_provider(name => 'google')`);
    expect((await pick()).map(({ id }) => id)).toEqual([due]);
  });

  test('passes over what a worker is claiming just now, without waiting', async () => {
    const { id } = await gmb.add({}, 'publish');
    const worker = await gmb.begin();
    await gmb.change(id, 'claim', worker);
    expect(await pick()).toEqual([]);
    await worker.query('commit');
    expect(await gmb.job(id)).toMatchObject({ locked_by: 'worker 1', attempt: 1 });
  });

  test('gives one sync to one caller only, however many ask at once', async () => {
    for (let n = 0; n < 20; n += 1) await gmb.add();
    const picked = (await Promise.all(Array.from({ length: 5 }, () => pick(20)))).flat().map(({ id }) => id);
    expect(picked).toHaveLength(20);
    expect(new Set(picked).size).toBe(20);
  });

  test.each([0, -1, 101, null])('of %s is refused', async (limit) => {
    await expect(call('select * from pick_sync_jobs($1)', [limit])).rejects.toMatchObject({ code: '22023' });
  });
});

describe('a picked sync', () => {
  test('is ended by an update of its status while its lease lasts', async () => {
    const { id, account } = await gmb.add();
    await pick();
    expect(await end(id, 'succeeded')).toEqual([{ status: 'succeeded' }]);
    expect(await gmb.job(id)).toMatchObject({ state: 'completed', locked_by: null, holds_key: false });
    expect(await gmb.attempts(id)).toMatchObject([{ attempt: 1, worker: 'rpc', outcome: 'completed' }]);
    expect((await gmb.ask(account)).duplicate).toBe(false);
  });

  test('that failed keeps the error, and the host is told', async () => {
    const { id, account } = await gmb.add();
    await pick();
    expect(await end(id, 'failed', 'no such account')).toEqual([{ status: 'failed' }]);
    expect(await gmb.shown(id)).toMatchObject({ status: 'failed', last_error: 'no such account' });
    const told = await rowsOf(gmb.database.pool, 'select status, last_error from sync_status where account_id = $1', [
      account.id,
    ]);
    expect(told).toEqual([{ status: 'failed', last_error: 'no such account' }]);
  });

  test('goes back to the queue with its attempt spent when its caller says so', async () => {
    const { id } = await gmb.add();
    await pick();
    await call(`update sync_queue set status = 'pending', last_error = 'busy', scheduled_at = $2 where id = $1`, [
      id,
      inAnHour(),
    ]);
    expect(await gmb.shown(id)).toMatchObject({ status: 'pending', attempts: 1, last_error: 'busy' });
    expect(await gmb.bridgeWork(id)).toMatchObject({ ready: expect.arrayContaining([3]) as number[] });
  });

  test('is not ended once its lease is over', async () => {
    const { id } = await gmb.add();
    await pick();
    await gmb.change(id, 'away');
    await expect(end(id, 'succeeded')).rejects.toMatchObject({ code: '0A000' });
    expect(await gmb.job(id)).toMatchObject({ state: 'active' });
  });

  test('goes back to the workers when its lease is over, by the sweep, and its attempt is not spent', async () => {
    const { id } = await gmb.add();
    const { id: running } = await gmb.add();
    await pick();
    await gmb.change(id, 'away');
    expect(await rowsOf(gmb.database.pool, 'select gmb.sweep() as answer')).toMatchObject([
      { answer: { returned: 1 } },
    ]);
    expect(await gmb.job(id)).toMatchObject({ state: 'pending', generation: 3, attempt: 0, interruptions: 1 });
    expect(await gmb.job(running)).toMatchObject({ state: 'active', locked_by: 'rpc' });
  });

  test('that is deleted ends at once: nobody would hear of a request to stop', async () => {
    const { id } = await gmb.add();
    await pick();
    await call('delete from sync_queue where id = $1', [id]);
    expect(await gmb.job(id)).toMatchObject({ state: 'cancelled', locked_by: null });
  });
});

describe('mark_stale_sync_jobs', () => {
  const mark = async (minutes: number) =>
    (await call('SELECT mark_stale_sync_jobs($1) as marked', [minutes]))[0]?.marked;
  const startedAgo = (id: string, minutes: number) =>
    gmb.database.pool.query(
      `update outbox.jobs set started_at = now() - $2 * interval '1 minute' where id = outbox.job_id($1)`,
      [id, minutes],
    );

  test('fails what has been running for so long and whose lease is over', async () => {
    const { id, account } = await gmb.add({}, 'publish', 'claim', 'away');
    await startedAgo(id, 11);
    expect(await mark(10)).toBe(1);
    expect(await gmb.shown(id)).toMatchObject({
      status: 'failed',
      last_error: expect.stringContaining('Nobody') as string,
    });
    expect(await gmb.job(id)).toMatchObject({ state: 'failed', reason: 'stale' });
    expect(await gmb.attempts(id)).toMatchObject([{ outcome: 'failed', worker: 'worker 1' }]);
    expect((await gmb.bridgeWork(id)).removals).toEqual([1]);
    expect((await gmb.ask(account)).duplicate).toBe(false);
  });

  test('touches nothing that somebody holds, nor what has not been running for so long', async () => {
    const { id: held } = await gmb.add({}, 'publish', 'claim');
    await startedAgo(held, 60);
    const { id: fresh } = await gmb.add({}, 'publish', 'claim', 'away');
    await startedAgo(fresh, 9);
    expect(await mark(10)).toBe(0);
    expect(await gmb.job(held)).toMatchObject({ state: 'active' });
    expect(await gmb.job(fresh)).toMatchObject({ state: 'active' });
  });

  test('does not wait for a worker that takes the sync over just now', async () => {
    const { id } = await gmb.add({}, 'publish', 'claim', 'away');
    await startedAgo(id, 11);
    const worker = await gmb.begin();
    await gmb.change(id, 'claim', worker);
    expect(await mark(10)).toBe(0);
  });

  test.each([-1, null, 100_001])('of %s minutes is refused', async (minutes) => {
    await expect(call('select mark_stale_sync_jobs($1)', [minutes])).rejects.toMatchObject({ code: '22023' });
  });
});

test('a sync that is picked and one that is claimed never share a row: the loser finds another generation', async () => {
  const account = await addAccount(gmb.database.pool);
  const { id } = await gmb.ask(account);
  await gmb.change(id, 'publish');
  const picker = await gmb.begin();
  await picker.query('select gmb.pick_sync_jobs(1)');
  const claim = gmb.database.pool.query(
    `update outbox.jobs set locked_by = 'worker 2' where id = outbox.job_id($1) and generation = 1 and state = 'published'`,
    [id],
  );
  await waitFor(async () => {
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
    expect(await rowsOf(gmb.database.pool, waiting)).toHaveLength(1);
  });
  await picker.query('commit');
  expect((await claim).rowCount).toBe(0);
});

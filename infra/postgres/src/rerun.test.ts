import type { Queryable } from '@outbox/core';
import { rowsOf, useRows, type Row } from './rows.fixture.ts';

const rows = useRows();

async function ask(name: string, key: string, rerun: boolean, db: Queryable = rows.database.pool): Promise<Row> {
  const [answer] = await rowsOf(db, 'select id, is_new from outbox.enqueue(name => $1, key => $2, rerun => $3)', [
    name,
    key,
    rerun,
  ]);
  return answer ?? {};
}

async function cancel(name: string, key: string): Promise<void> {
  await rows.database.pool.query('select outbox.cancel(name => $1, key => $2)', [name, key]);
}

function openRows(name: string): Promise<Row[]> {
  return rowsOf(
    rows.database.pool,
    'select state, rerun from outbox.jobs where name = $1 and finished_at is null order by id',
    [name],
  );
}

describe('a duplicate of a running job that is unique while it is open', () => {
  test.each([true, false])('gives the running one; with rerun %s, that is what it notes', async (rerun) => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    expect(await ask(name, key, rerun)).toEqual({ id, is_new: false });
    expect(await rows.of(name)).toMatchObject([{ id, state: 'active', rerun }]);
  });

  test('in a set notes it, too', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    const answer = await rowsOf(
      rows.database.pool,
      'select id, is_new from outbox.enqueue_many(name => $1, rows => $2, rerun => true)',
      [name, JSON.stringify([{ key }])],
    );
    expect(answer).toEqual([{ id, is_new: false }]);
    expect(await rows.read(id)).toMatchObject({ rerun: true });
  });

  test.each([true, false])('that is about to end because it was cancelled is noted, with rerun %s', async (rerun) => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await cancel(name, key);
    await ask(name, key, rerun);
    expect(await rows.read(id)).toMatchObject({ rerun: true });
  });

  test('that was cancelled and waits to find out about its call is noted: that run reads nothing else', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim', 'retry');
    await rows.addEffect(id, 'started');
    await cancel(name, key);
    expect(await ask(name, key, false)).toEqual({ id, is_new: false });
    await rows.change(id, 'cancelled');
    expect(await openRows(name)).toEqual([{ state: 'pending', rerun: false }]);
  });

  test('is not noted of one that waits: its run begins after the change', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim', 'retry');
    await ask(name, key, true);
    expect(await rows.read(id)).toMatchObject({ rerun: false });
  });

  test('that is just being claimed waits for the claim, and is noted', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name);
    const [worker, business] = [await rows.begin(), await rows.begin()];
    await rows.change(id, 'claim', worker);
    const asked = ask(name, key, true, business);
    await rows.untilBlocked(business, worker);
    await worker.query('commit');
    expect(await asked).toEqual({ id, is_new: false });
    await business.query('commit');
    expect(await rows.read(id)).toMatchObject({ state: 'active', rerun: true });
  });

  test('that is just ending waits for its end, and is a row of its own', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    const [worker, business] = [await rows.begin(), await rows.begin()];
    await rows.change(id, 'completed', worker);
    const asked = ask(name, key, true, business);
    await rows.untilBlocked(business, worker);
    await worker.query('commit');
    expect(await asked).toMatchObject({ is_new: true });
    await business.query('commit');
    expect(await openRows(name)).toEqual([{ state: 'pending', rerun: false }]);
  });

  test('keeps it from ending until its own transaction ends: the change is acted on afterwards', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    const [worker, business] = [await rows.begin(), await rows.begin()];
    await ask(name, key, true, business);
    const ended = rows.change(id, 'completed', worker);
    await rows.untilBlocked(worker, business);
    await business.query('commit');
    await ended;
    await worker.query('commit');
    expect(await openRows(name)).toEqual([{ state: 'pending', rerun: false }]);
  });
});

describe('a row that is to run again', () => {
  test.each(['completed', 'skipped', 'failed', 'cancelled'] as const)(
    'is enqueued when it ends as %s, with all it was asked for, due after its delay',
    async (ending) => {
      const name = await rows.addType();
      const asked = { payload: { a: 1 }, priority: 7, maxAttempts: 9, serialKey: `s ${name}`, traceparent: 't' };
      const { id, key } = await rows.add(name, asked, 'claim');
      await ask(name, key, true);
      await rows.change(id, ending);
      const [ended, next] = await rows.of(name);
      expect(ended).toMatchObject({ id, state: ending });
      expect(next).toMatchObject({
        ...{ key, payload: { a: 1 }, priority: 7, max_attempts: 9, serial_key: asked.serialKey, traceparent: 't' },
        ...{ state: 'pending', attempt: 0, rerun: false, holds_key: true },
      });
      expect((await rows.bridgeWork(String(next?.id))).ready).toMatchObject([{ generation: 1, far: false }]);
    },
  );

  test('is enqueued in the transaction that ends it: a rollback leaves both as they were', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await ask(name, key, true);
    const worker = await rows.begin();
    await rows.change(id, 'completed', worker);
    await worker.query('rollback');
    expect(await openRows(name)).toEqual([{ state: 'active', rerun: true }]);
  });

  test('does so once: what is enqueued ends without another', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await ask(name, key, true);
    await ask(name, key, true);
    await rows.change(id, 'completed');
    const next = String((await rows.of(name))[1]?.id);
    await rows.change(next, 'claim');
    await rows.change(next, 'completed');
    expect(await rows.of(name)).toHaveLength(2);
  });

  test('is not enqueued before its end: a retry reads the world again anyway', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await ask(name, key, true);
    await rows.change(id, 'retry');
    expect(await rows.of(name)).toHaveLength(1);
  });

  test('paused, resumed and paused again while it runs leaves nothing to run', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await cancel(name, key);
    await ask(name, key, true);
    expect(await rows.read(id)).toMatchObject({ rerun: true });
    await cancel(name, key);
    await rows.change(id, 'cancelled');
    expect(await openRows(name)).toEqual([]);
  });

  test('paused and resumed while it runs, runs once more', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await cancel(name, key);
    await ask(name, key, true);
    await rows.change(id, 'cancelled');
    expect(await openRows(name)).toEqual([{ state: 'pending', rerun: false }]);
  });

  test('ends all the same when the next cannot be enqueued, which is recorded', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await ask(name, key, true);
    const worker = await rows.begin();
    await worker.query('delete from outbox.job_types where name = $1', [name]);
    await rows.change(id, 'completed', worker);
    await worker.query('commit');
    expect(await rows.of(name)).toMatchObject([{ id, state: 'completed' }]);
    expect(await errorsOf(name)).toEqual([
      { table_name: 'outbox.jobs', key, sqlstate: 'OB001', message: `There is no job named "${name}".` },
    ]);
  });

  test('ends all the same when enqueueing the next waits longer than the lock time-out of the session', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim');
    await ask(name, key, true);
    const [worker, other] = [await rows.begin(), await rows.begin()];
    await other.query('lock table outbox.ready in access exclusive mode');
    await worker.query("set local lock_timeout = '50ms'");
    await rows.change(id, 'completed', worker);
    await worker.query('commit');
    await other.query('rollback');
    expect(await rows.of(name)).toMatchObject([{ id, state: 'completed' }]);
    expect(await errorsOf(name)).toMatchObject([{ key, sqlstate: '55P03' }]);
  });
});

/** What the function of a capture does: it never fails the write of the business, and waits for nobody long. */
const CAPTURE = /* sql */ `
  create function public.capture_test() returns trigger language plpgsql security definer
  set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
  as $$
  begin
    perform outbox.enqueue(name => new.job, key => new.key, rerun => true);
    return null;
  exception when others then
    perform outbox.record_capture_error('public.things', new.job, new.key, sqlstate, sqlerrm);
    return null;
  end $$;
  create table public.things (job text, key text);
  create trigger capture after insert on public.things for each row execute function public.capture_test()`;

test('a capture that meets a held key gives up after its lock time-out, is recorded, and the write goes through', async () => {
  const { pool } = rows.database;
  await pool.query(CAPTURE);
  const name = await rows.addType();
  const { id, key } = await rows.add(name);
  const holder = await rows.begin();
  await rows.change(id, 'claim', holder);
  await pool.query('insert into public.things (job, key) values ($1, $2)', [name, key]);
  await holder.query('commit');
  expect(await rowsOf(pool, 'select key from public.things')).toEqual([{ key }]);
  expect(await errorsOf(name)).toMatchObject([{ table_name: 'public.things', key, sqlstate: '55P03' }]);
});

function errorsOf(name: string): Promise<Row[]> {
  return rowsOf(
    rows.database.pool,
    'select table_name, key, sqlstate, message from outbox.capture_errors where job_name = $1',
    [name],
  );
}

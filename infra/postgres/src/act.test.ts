import { randomUUID } from 'node:crypto';
import { HOUR, type Queryable } from '@outbox/core';
import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const SOON = () => new Date(Date.now() + 1 * HOUR);
const FAR = () => new Date(Date.now() + 100 * HOUR);

type Act = (id: string, db?: Queryable) => Promise<unknown>;

const reschedule =
  (scheduledAt: Date): Act =>
  (id, db = rows.database.pool) =>
    rowsOf(db, 'select outbox.reschedule(id => $1, scheduled_at => $2) as generation', [id, scheduledAt]);
const runNow: Act = (id, db = rows.database.pool) => rowsOf(db, 'select outbox.run_now(id => $1) as generation', [id]);
const redrive: Act = (id, db = rows.database.pool) => rowsOf(db, 'select outbox.redrive(id => $1) as generation', [id]);

const OPEN_ACTS: [string, Act][] = [
  ['reschedule', (id, db) => reschedule(SOON())(id, db)],
  ['run_now', runNow],
];

describe('every act', () => {
  test.each<[string, Act, ('publish' | 'claim' | 'failed')[]]>([
    ['reschedule of a pending job', (id) => reschedule(SOON())(id), []],
    ['reschedule of a published job', (id) => reschedule(SOON())(id), ['publish']],
    ['run_now of a pending job', runNow, []],
    ['run_now of a published job', runNow, ['publish']],
    ['redrive', redrive, ['claim', 'failed']],
  ])('begins a new life and asks to take the old one out of BullMQ: %s', async (_title, act, changes) => {
    const { id } = await rows.add(await rows.addType(), {}, ...changes);
    expect(await act(id)).toEqual([{ generation: 2 }]);
    expect(await rows.read(id)).toMatchObject({
      ...{ state: 'pending', generation: 2, published_at: null, published_epoch: null, finished_at: null },
      ...{ holds_key: true },
    });
    const { ready, removals } = await rows.bridgeWork(id);
    expect(ready.at(-1)).toMatchObject({ generation: 2, far: false });
    expect(removals).toEqual([{ queue: 'reminders', generation: 1 }]);

    expect(await runNow(id)).toEqual([{ generation: 3 }]);
    expect((await rows.bridgeWork(id)).removals).toHaveLength(2);
  });

  test.each([...OPEN_ACTS, ['redrive', redrive] as [string, Act]])('%s of no job is OB002', async (_name, act) => {
    await expect(act('999999999')).rejects.toMatchObject({ code: 'OB002', message: 'There is no job 999999999.' });
  });

  test.each(OPEN_ACTS)('%s of a running job is OB003', async (_name, act) => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim');
    const before = await rows.read(id);
    await expect(act(id)).rejects.toMatchObject({ code: 'OB003' });
    expect(await rows.read(id)).toEqual(before);
  });

  test.each(OPEN_ACTS)('%s of a job that is about to end as cancelled is OB003', async (_name, act) => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim', 'retry');
    await rows.addEffect(id, 'started');
    await rows.database.pool.query('select outbox.cancel(name => $1, key => $2)', [name, key]);
    await expect(act(id)).rejects.toMatchObject({ code: 'OB003' });
    expect(await rows.read(id)).toMatchObject({ generation: 1, state: 'published' });
  });

  test.each(
    OPEN_ACTS.flatMap(([name, act]) =>
      (['completed', 'skipped', 'failed', 'cancelled'] as const).map((ending) => [name, ending, act] as const),
    ),
  )('%s of a job that has ended as %s is OB004', async (_name, ending, act) => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', ending);
    await expect(act(id)).rejects.toMatchObject({ code: 'OB004' });
    expect(await rows.read(id)).toMatchObject({ generation: 1, state: ending });
  });
});

describe('reschedule', () => {
  test('moves a job out of the publish window and back', async () => {
    const { id } = await rows.add(await rows.addType(), {}, 'publish');
    const far = FAR();
    await reschedule(far)(id);
    expect(await rows.read(id)).toMatchObject({ scheduled_at: far, due_at: far });
    expect((await rows.bridgeWork(id)).ready.at(-1)).toMatchObject({ generation: 2, far: true, scheduled_at: far });
    await reschedule(SOON())(id);
    expect((await rows.bridgeWork(id)).ready.at(-1)).toMatchObject({ generation: 3, far: false });
  });

  test('keeps the attempts and interruptions that were counted', async () => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', 'retry');
    await rows.database.pool.query('update outbox.jobs set interruptions = 2 where id = $1', [id]);
    await reschedule(SOON())(id);
    expect(await rows.read(id)).toMatchObject({ attempt: 1, interruptions: 2 });
  });

  test('of a job that had its turn gives the turn back: the next of its serial key may run', async () => {
    const serialKey = randomUUID();
    const { id } = await rows.add(await rows.addType(), { serialKey }, 'publish');
    await rows.database.pool.query('update outbox.jobs set admitted = true where id = $1', [id]);
    await reschedule(FAR())(id);
    expect(await rows.read(id)).toMatchObject({ admitted: false });
    expect((await rows.bridgeWork(id)).ready.at(-1)).toMatchObject({ serial_key: serialKey, far: true });
  });

  test('does not take the key that a running job of the same name let go of and another holds', async () => {
    const name = await rows.addType('waiting');
    const first = await rows.add(name, {}, 'claim', 'retry');
    await rows.add(name, { key: first.key });
    await reschedule(SOON())(first.id);
    expect(await rows.of(name)).toMatchObject([{ holds_key: false }, { holds_key: true }]);
  });

  test('that meets a claim waits for it, and is refused', async () => {
    const { id } = await rows.add(await rows.addType(), {}, 'publish');
    const [worker, person] = [await rows.begin(), await rows.begin()];
    await rows.change(id, 'claim', worker);
    const act = expect(reschedule(SOON())(id, person)).rejects.toMatchObject({ code: 'OB003' });
    await rows.untilBlocked(person, worker);
    await worker.query('commit');
    await act;
  });
});

test('run_now makes a far job due by the clock of the database, near', async () => {
  const { id } = await rows.add(await rows.addType(), { scheduledAt: FAR() });
  await runNow(id);
  const due = 'select scheduled_at <= clock_timestamp() as due from outbox.jobs where id = $1';
  expect(await rowsOf(rows.database.pool, due, [id])).toEqual([{ due: true }]);
  expect((await rows.bridgeWork(id)).ready.at(-1)).toMatchObject({ generation: 2, far: false });
});

describe('redrive', () => {
  test('gives all attempts back, forgets interruptions and refusals, and keeps what went wrong', async () => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', 'failed');
    await rows.database.pool.query(
      "update outbox.jobs set interruptions = 11, publish_failures = 5, reason = 'x', last_error = 'e' where id = $1",
      [id],
    );
    await redrive(id);
    expect(await rows.read(id)).toMatchObject({
      ...{
        attempt: 0,
        interruptions: 0,
        publish_failures: 0,
        reason: null,
        last_error: 'e',
        cancel_requested_at: null,
      },
    });
  });

  test.each(['waiting', 'open'] as const)('takes the key again when it is free (%s)', async (unique) => {
    const name = await rows.addType(unique);
    const { id, key } = await rows.add(name, {}, 'claim', 'failed');
    await redrive(id);
    expect(await rows.read(id)).toMatchObject({ holds_key: true });
    const asked = 'select id, is_new from outbox.enqueue(name => $1, key => $2)';
    expect(await rowsOf(rows.database.pool, asked, [name, key])).toEqual([{ id, is_new: false }]);
  });

  test('takes no key when the job is never unique', async () => {
    const { id } = await rows.add(await rows.addType('none'), {}, 'claim', 'failed');
    await redrive(id);
    expect(await rows.read(id)).toMatchObject({ state: 'pending', holds_key: false });
  });

  test('is OB005 and changes nothing when another job holds the key, which DETAIL names', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim', 'failed');
    const before = await rows.read(id);
    const other = await rows.add(name, { key });
    await expect(redrive(id)).rejects.toMatchObject({ code: 'OB005', detail: other.id });
    expect(await rows.read(id)).toEqual(before);
    expect((await rows.bridgeWork(id)).removals).toEqual([]);
  });

  test.each(['completed', 'skipped', 'cancelled'] as const)('is OB004 for a job that is %s', async (ending) => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', ending);
    await expect(redrive(id)).rejects.toMatchObject({ code: 'OB004' });
  });

  test.each<[('publish' | 'claim')[]]>([[[]], [['publish']], [['claim']]])(
    'is OB004 for an open job (after %j)',
    async (changes) => {
      const { id } = await rows.add(await rows.addType(), {}, ...changes);
      await expect(redrive(id)).rejects.toMatchObject({ code: 'OB004' });
    },
  );

  test('of one job by two people at once happens once', async () => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', 'failed');
    const [first, second] = [await rows.begin(), await rows.begin()];
    await redrive(id, first);
    const refused = expect(redrive(id, second)).rejects.toMatchObject({ code: 'OB004' });
    await rows.untilBlocked(second, first);
    await first.query('commit');
    await refused;
    expect(await rows.read(id)).toMatchObject({ generation: 2 });
  });

  test('of two failed jobs of one key at once leaves one of them failed, naming the other', async () => {
    const name = await rows.addType();
    const one = await rows.add(name, {}, 'claim', 'failed');
    const two = await rows.add(name, { key: one.key }, 'claim', 'failed');
    const [first, second] = [await rows.begin(), await rows.begin()];
    await redrive(one.id, first);
    const refused = expect(redrive(two.id, second)).rejects.toMatchObject({ code: 'OB005', detail: one.id });
    await rows.untilBlocked(second, first);
    await first.query('commit');
    await refused;
    expect(await rows.of(name)).toMatchObject([{ state: 'pending' }, { state: 'failed' }]);
  });
});

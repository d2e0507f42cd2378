import { rowsOf, useRows, type Row } from './rows.fixture.ts';

const rows = useRows();

async function resolve(id: string, outcome: string | null, db = rows.database.pool): Promise<unknown> {
  const [answer] = await rowsOf(
    db,
    `select outbox.resolve_effect(id => $1, outcome => $2, note => 'seen in the log', resolved_by => 'ada') as job`,
    [id, outcome],
  );
  return answer?.job;
}

async function effect(id: string): Promise<Row> {
  return (await rowsOf(rows.database.pool, 'select * from outbox.effects where id = $1', [id]))[0] ?? {};
}

describe('an effect that is resolved', () => {
  test.each([
    ['confirmed', expect.stringMatching(/^resolved:\d+$/) as string],
    ['rejected', null],
  ])('as %s says so, by whom and why', async (outcome, reference) => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', 'completed');
    const unknown = await rows.addEffect(id, 'unknown');
    await resolve(unknown, outcome);
    expect(await effect(unknown)).toMatchObject({
      ...{ state: outcome, reference, reason: 'resolved_by_a_person', note: 'seen in the log', resolved_by: 'ada' },
    });
  });

  test('keeps the reference that the provider gave', async () => {
    const { id } = await rows.add(await rows.addType());
    const unknown = await rows.addEffect(id, 'unknown');
    await rows.database.pool.query(`update outbox.effects set reference = 'SM1' where id = $1`, [unknown]);
    await resolve(unknown, 'confirmed');
    expect(await effect(unknown)).toMatchObject({ reference: 'SM1' });
  });

  test.each(['completed', 'skipped', 'failed'] as const)(
    'of a job that ended as %s has the job enqueued once more, due now, with what it was asked for',
    async (ending) => {
      const name = await rows.addType();
      const asked = { payload: { a: 1 }, priority: 3, serialKey: name };
      const { id, key } = await rows.add(name, asked, 'claim', ending);
      const next = await resolve(await rows.addEffect(id, 'unknown'), 'confirmed');
      expect(next).not.toBe(id);
      expect(await rows.read(String(next))).toMatchObject({
        ...{ name, key, payload: { a: 1 }, priority: 3, serial_key: name, state: 'pending' },
      });
      const due = 'select scheduled_at <= clock_timestamp() as due from outbox.jobs where id = $1';
      expect(await rowsOf(rows.database.pool, due, [next])).toEqual([{ due: true }]);
    },
  );

  test('of a cancelled job enqueues nothing: nobody wants what else it would do', async () => {
    const name = await rows.addType();
    const { id } = await rows.add(name, {}, 'claim', 'cancelled');
    expect(await resolve(await rows.addEffect(id, 'unknown'), 'confirmed')).toBeNull();
    expect(await rows.of(name)).toHaveLength(1);
  });

  test('of a job that ended while another of its key runs has that one run once more', async () => {
    const name = await rows.addType();
    const { id, key } = await rows.add(name, {}, 'claim', 'completed');
    const running = await rows.add(name, { key }, 'claim');
    expect(await resolve(await rows.addEffect(id, 'unknown'), 'confirmed')).toBe(running.id);
    expect(await rows.read(running.id)).toMatchObject({ rerun: true });
  });

  test.each(['open', 'waiting'] as const)('of a running job has it run once more (%s)', async (unique) => {
    const name = await rows.addType(unique);
    const { id } = await rows.add(name, {}, 'claim');
    expect(await resolve(await rows.addEffect(id, 'unknown'), 'rejected')).toBeNull();
    await rows.change(id, 'completed');
    expect(await rows.of(name)).toMatchObject([{ state: 'completed' }, { state: 'pending' }]);
  });

  test('of a job that waits leaves it as it is: it has yet to look', async () => {
    const name = await rows.addType();
    const { id } = await rows.add(name, {}, 'claim', 'retry');
    const before = await rows.read(id);
    expect(await resolve(await rows.addEffect(id, 'unknown'), 'confirmed')).toBeNull();
    expect(await rows.of(name)).toEqual([before]);
  });

  test('of a job that was pruned enqueues nothing', async () => {
    const unknown = await rows.addEffect('999999999', 'unknown');
    expect(await resolve(unknown, 'confirmed')).toBeNull();
    expect(await effect(unknown)).toMatchObject({ state: 'confirmed' });
  });

  test('stays unknown when its job cannot be enqueued', async () => {
    const name = await rows.addType();
    const { id } = await rows.add(name, {}, 'claim', 'completed');
    const unknown = await rows.addEffect(id, 'unknown');
    await rows.database.pool.query('delete from outbox.job_types where name = $1', [name]);
    await expect(resolve(unknown, 'confirmed')).rejects.toMatchObject({ code: 'OB001' });
    expect(await effect(unknown)).toMatchObject({ state: 'unknown' });
  });
});

describe('refused', () => {
  test('is an effect that does not exist: OB007', async () => {
    await expect(resolve('999999999', 'confirmed')).rejects.toMatchObject({ code: 'OB007' });
  });

  test.each(['started', 'confirmed'] as const)('is one that is %s: OB008', async (state) => {
    const { id } = await rows.add(await rows.addType(), {}, 'claim', 'completed');
    const settled = await rows.addEffect(id, state);
    await expect(resolve(settled, 'rejected')).rejects.toMatchObject({ code: 'OB008' });
    expect(await effect(settled)).toMatchObject({ state, resolved_by: null });
  });

  test.each(['unknown', 'started', '', null])('is the outcome %j: OB008', async (outcome) => {
    const { id } = await rows.add(await rows.addType());
    const unknown = await rows.addEffect(id, 'unknown');
    await expect(resolve(unknown, outcome)).rejects.toMatchObject({ code: 'OB008' });
    expect(await effect(unknown)).toMatchObject({ state: 'unknown' });
  });

  test('is the second of two people who resolve it at once', async () => {
    const name = await rows.addType();
    const { id } = await rows.add(name, {}, 'claim', 'completed');
    const unknown = await rows.addEffect(id, 'unknown');
    const [first, second] = [await rows.begin(), await rows.begin()];
    const sql = `select outbox.resolve_effect(id => $1, outcome => $2, note => '', resolved_by => 'p')`;
    await first.query(sql, [unknown, 'confirmed']);
    const refused = expect(second.query(sql, [unknown, 'rejected'])).rejects.toMatchObject({ code: 'OB008' });
    await rows.untilBlocked(second, first);
    await first.query('commit');
    await refused;
    expect(await effect(unknown)).toMatchObject({ state: 'confirmed' });
    expect(await rows.of(name)).toHaveLength(2);
  });
});

import type { Queryable } from '@outbox/core';
import { capture, declare, errorsOf, type Captured, type Rule } from './capture.fixture.ts';
import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const query = (sql: string, values?: unknown[], db: Queryable = rows.database.pool) => rowsOf(db, sql, values);

/** Things 1 to `count`, by one statement. */
async function insert({ table }: Captured, count: number, db: Queryable = rows.database.pool): Promise<void> {
  await db.query(`insert into ${table} (id, email) select n, 'e' || n from generate_series(1, $1::int) n`, [count]);
}

describe('reschedule', () => {
  const later = { delay: `interval '1 hour'`, reschedule: true };

  /** Thing 1 with its job, which is taken through `changes`; then another write of it, 30 minutes after the first. */
  async function writtenTwice(rule: Rule, ...changes: Parameters<typeof rows.change>[1][]) {
    const captured = await capture(rows, rule);
    await insert(captured, 1);
    const [job] = await rows.of(captured.job);
    const id = String(job?.id);
    await query(`update outbox.jobs set scheduled_at = scheduled_at - interval '30 minutes' where id = $1`, [id]);
    for (const change of changes) await rows.change(id, change);
    const before = await rows.read(id);
    await query(`update ${captured.table} set email = 'new'`);
    const after = await rows.read(id);
    expect(await rows.of(captured.job)).toHaveLength(1);
    return { id, before, after };
  }

  test('moves the job that waits to the new instant', async () => {
    const { id, after } = await writtenTwice(later);
    expect(after).toMatchObject({ state: 'pending', generation: 2 });
    const asked = `select scheduled_at > now() + interval '59 minutes' as later from outbox.jobs where id = $1`;
    expect(await query(asked, [id])).toEqual([{ later: true }]);
  });

  test('moves it to the delay of its job when the rule names none', async () => {
    const { after } = await writtenTwice({ reschedule: true });
    expect(after).toMatchObject({ generation: 2 });
  });

  test('of a published job takes the old one out of BullMQ and publishes it anew', async () => {
    const { id, after } = await writtenTwice(later, 'publish');
    expect(after).toMatchObject({ state: 'pending', generation: 2, published_at: null });
    const { ready, removals } = await rows.bridgeWork(id);
    expect(removals).toMatchObject([{ generation: 1 }]);
    expect(ready).toEqual(
      expect.arrayContaining([expect.objectContaining({ generation: 2, scheduled_at: after.scheduled_at })]),
    );
  });

  test('leaves a job that backs off to the instant its backoff gave it', async () => {
    const { before, after } = await writtenTwice(later, 'claim', 'retry');
    expect(after).toEqual(before);
  });

  test('leaves a running job running, and has it run once more', async () => {
    const { after } = await writtenTwice(later, 'claim');
    expect(after).toMatchObject({ state: 'active', generation: 1, rerun: true });
  });

  test('to the instant it has already changes nothing', async () => {
    const captured = await capture(rows, { scheduled_at: `'2031-02-03Z'`, reschedule: true });
    await insert(captured, 1);
    await query(`update ${captured.table} set email = 'new'`);
    expect(await rows.of(captured.job)).toMatchObject([{ generation: 1 }]);
  });

  test('that is not asked for leaves the job where it is', async () => {
    const { before, after } = await writtenTwice({ delay: `interval '1 hour'` });
    expect(after).toEqual(before);
  });
});

describe("a job's own write", () => {
  /** Thing 1 and 2; the job of 1 is running, and writes what `sql` says. */
  async function ownWrite(rule: Rule, sql: (captured: Captured) => string): Promise<Captured> {
    const captured = await capture(rows, rule);
    await insert(captured, 2);
    const [own] = await rows.of(captured.job);
    await rows.change(String(own?.id), 'claim');
    const client = await rows.begin();
    await client.query(`select set_config('outbox.current_job', $1, true)`, [own?.id]);
    await client.query(sql(captured));
    await client.query('commit');
    expect(await errorsOf(captured, rows.database.pool)).toEqual([]);
    return captured;
  }

  test('of its row does not run it once more, and of another row is captured', async () => {
    const captured = await ownWrite(
      {},
      ({ table }) => `update ${table} set email = 'new'; update ${table} set id = id + 2`,
    );
    const byKey = await query('select * from outbox.jobs where name = $1 order by key', [captured.job]);
    expect(byKey).toMatchObject([
      { key: '1', state: 'active', rerun: false },
      { key: '2', state: 'cancelled' },
      { key: '3', state: 'pending' },
      { key: '4', state: 'pending' },
    ]);
  });

  test('does not cancel it', async () => {
    const captured = await ownWrite(
      { cancel_when: `row.status = 'off'` },
      ({ table }) => `update ${table} set status = 'off'`,
    );
    expect(await rows.of(captured.job)).toMatchObject([
      { key: '1', state: 'active', cancel_requested_at: null },
      { key: '2', state: 'cancelled' },
    ]);
  });

  test('is captured for a rule of another job', async () => {
    const captured = await capture(rows);
    const other = await rows.addType();
    await declare({ ...captured.rule, name: `${captured.name}_2`, job_name: other }, rows.database.pool);
    const { id } = await rows.add(captured.job, { key: '1' }, 'claim');
    const client = await rows.begin();
    await client.query(`select set_config('outbox.current_job', $1, true)`, [id]);
    await insert(captured, 1, client);
    await client.query('commit');
    expect(await rows.of(other)).toMatchObject([{ key: '1', state: 'pending' }]);
    expect(await rows.read(id)).toMatchObject({ rerun: false });
  });
});

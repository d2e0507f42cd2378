import { addHistory, createExplainedPool, createTestDatabase } from '@outbox/testing';

const JOB = 'pause_check_48h';

it('no statement of a capture reads a table of the outbox whole, in a session like any of the business', async () => {
  const database = await createTestDatabase();
  await database.pool.query(/* sql */ `
    create table public.written (id int primary key, note text);
    select outbox.capture(
      name => 'test.written', table_name => 'public.written', job_name => '${JOB}', key => 'row.id::text',
      payload => $$jsonb_build_object('autoSyncId', row.id)$$, "when" => 'row.note is not null',
      cancel_when => 'row.note is null', delay => $$interval '1 hour'$$, reschedule => true
    )`);
  await addHistory(database, JOB);
  const explained = await createExplainedPool(database, { preferIndexes: false });
  const { pool } = explained;
  try {
    await pool.query(`insert into public.written select -n, 'A note' from generate_series(1, 100) as s (n)`);
    // Twice the five times that PostgreSQL plans for the very values before it keeps a plan for all.
    for (let id = 1; id <= 10; id += 1) {
      await pool.query('insert into public.written values ($1, $2)', [id, 'A note']);
      await pool.query('update public.written set note = $2 where id = $1', [id, 'Another note']);
      await pool.query('update public.written set note = null where id = $1', [id]);
      await pool.query('delete from public.written where id = $1', [-id]);
    }
    expect(explained.plans).toBeGreaterThan(100);
    expect(explained.scans.filter(({ table }) => table !== 'written')).toEqual([]);
    const { rows } = await database.pool.query(
      `select state, count(*)::int from outbox.jobs where created_at > now() - interval '1 minute' and key ~ '^-?[0-9]+$'
         and payload <> '{}' group by state order by state`,
    );
    expect(rows).toEqual([
      { state: 'cancelled', count: 20 },
      { state: 'pending', count: 90 },
    ]);
  } finally {
    await pool.end();
    await database.drop();
  }
});

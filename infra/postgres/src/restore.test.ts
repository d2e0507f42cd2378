import { rowsOf, useRows, type Row } from './rows.fixture.ts';

const rows = useRows();

const JUMP = 1_000_000_000;

async function resume(counter: number | null): Promise<void> {
  await rows.database.pool.query('select outbox.resume_after_restore(counter => $1)', [counter]);
}

async function meta(): Promise<Row> {
  const [row] = await rowsOf(
    rows.database.pool,
    /* sql */ `
    select
      restore_counter::int as counter, restored_from, restored_at, counted_at,
      counted_at > now() - interval '1 minute' as counted_now
    from outbox.meta`,
  );
  return row ?? {};
}

/** As if the counter had last grown then. */
async function countedAt(at: string): Promise<void> {
  await rows.database.pool.query('update outbox.meta set counted_at = $1', [at]);
}

async function sequences(): Promise<Record<string, number>> {
  const [row] = await rowsOf(
    rows.database.pool,
    /* sql */ `
    select
      (select last_value::float8 from outbox.run) as run,
      (select last_value::float8 from outbox.jobs_id_seq) as jobs,
      (select last_value::float8 from outbox.effects_id_seq) as effects`,
  );
  return row as Record<string, number>;
}

beforeEach(async () => {
  await rows.database.pool.query(/* sql */ `
    truncate outbox.jobs, outbox.ready, outbox.removals, outbox.effects, outbox.attempts;
    update outbox.meta set restored_from = null, restored_at = null, restore_counter = 5, counted_at = now()`);
});

test('the sequences of ids and runs jump, from what they gave last and not from what is left', async () => {
  const { id } = await rows.add(await rows.addType(), {}, 'claim', 'completed');
  await rows.addEffect(id, 'confirmed');
  await resume(7);
  const first = await sequences();
  await rows.database.pool.query('truncate outbox.jobs, outbox.effects');
  await resume(7);
  const second = await sequences();
  for (const name of ['run', 'jobs', 'effects']) {
    expect(Number(first[name])).toBeGreaterThan(JUMP);
    expect(Number(second[name])).toBeGreaterThanOrEqual(Number(first[name]) + JUMP);
  }
});

test.each([
  [9, 10],
  [2, 6],
  [null, 6],
])('a backend that has seen %j leaves the counter, which was 5, at %d: above both', async (seen, counter) => {
  await resume(seen);
  expect(await meta()).toMatchObject({ counter, counted_now: true });
});

test('published and running rows are to be published again, whatever their lease; the rest stays', async () => {
  const name = await rows.addType();
  const published = await rows.add(name, {}, 'publish');
  const running = await rows.add(name, {}, 'publish', 'claim');
  const pending = await rows.add(name);
  const completed = await rows.add(name, {}, 'claim', 'completed');
  await resume(7);
  expect(await rows.of(name)).toMatchObject([
    { id: published.id, state: 'pending', generation: 2, attempt: 0, published_at: null },
    { id: running.id, state: 'pending', generation: 2, attempt: 0, interruptions: 1, locked_by: null },
    { id: pending.id, state: 'pending', generation: 1 },
    { id: completed.id, state: 'completed', generation: 1 },
  ]);
  expect((await rows.bridgeWork(running.id)).ready.at(-1)).toMatchObject({ generation: 2 });
});

describe('the time of which nothing is known', () => {
  const earlier = '2030-01-01T00:00:00Z';
  const later = '2030-02-01T00:00:00Z';

  test('begins when the counter last grew, and ends now', async () => {
    await countedAt(earlier);
    await resume(7);
    const { restored_from: from, restored_at: at } = await meta();
    expect(from).toEqual(new Date(earlier));
    const isNow = `select $1::timestamptz between now() - interval '1 minute' and clock_timestamp() as now`;
    expect(await rowsOf(rows.database.pool, isNow, [at])).toEqual([{ now: true }]);
  });

  test.each(['claim', 'failed'] as const)(
    'begins at the first restore, as long as a job of before it may still run (%s)',
    async (last) => {
      await rows.add(await rows.addType(), {}, 'claim', ...(last === 'failed' ? (['failed'] as const) : []));
      await countedAt(earlier);
      await resume(7);
      await countedAt(later);
      await resume(8);
      expect(await meta()).toMatchObject({ restored_from: new Date(earlier) });
    },
  );

  test('begins anew at the second restore when no job of before the first may still run', async () => {
    await rows.add(await rows.addType(), {}, 'claim', 'completed');
    await countedAt(earlier);
    await resume(7);
    await rows.add(await rows.addType());
    await countedAt(later);
    await resume(8);
    expect(await meta()).toMatchObject({ restored_from: new Date(later) });
  });
});

import { createPool, type Queryable } from '@outbox/core';
import { captureLogs, createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createFinish } from './finish.ts';
import { Progress } from './progress.ts';
import { addActive, addJobType, readRow, takeOver } from './worker.fixture.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase();
  await addJobType(database.pool);
});
afterEach(() => database.drop());

async function setup() {
  const { pool } = database;
  const job = await addActive(pool);
  const abort = new AbortController();
  const written: unknown[] = [];
  const noting: Queryable = {
    query: async (text, values = []) => {
      written.push(values[2]);
      return pool.query(text, values);
    },
  };
  const progress = new Progress(noting, job, { signal: abort.signal, log: { logger: captureLogs().log } });
  const inRow = async () => {
    const { rows } = await pool.query<{ progress: unknown }>('select progress from outbox.jobs where id = $1', [
      job.id,
    ]);
    return rows[0]?.progress;
  };
  return { pool, job, progress, written, inRow, end: () => abort.abort(new Error('ended')) };
}

test('the first value is in the row at once, the newest of many follows, and the rest is left out', async () => {
  const { progress, written, inRow, end } = await setup();
  for (let done = 1; done <= 1_000; done += 1) progress.report({ done });
  await waitFor(async () => expect(await inRow()).toEqual({ done: 1_000 }));
  expect(written).toHaveLength(2);
  expect(progress.unwritten).toBeUndefined();
  end();
});

test('what is not written yet goes into the row with the end of the run', async () => {
  const { pool, job, progress, inRow, end } = await setup();
  progress.report('first');
  await waitFor(async () => expect(await inRow()).toBe('first'));
  progress.report('last');
  const finish = createFinish(pool, 10);
  await finish({ job, ending: { kind: 'completed', result: undefined }, progress: progress.unwritten });
  expect(await inRow()).toBe('last');
  end();
});

test('a run that lost its row writes nothing, neither while it runs nor at its end', async () => {
  const { pool, job, progress, written, inRow, end } = await setup();
  await takeOver(pool, job);
  progress.report('of the zombie');
  await waitFor(() => expect(written).toHaveLength(1));
  const finish = createFinish(pool, 10);
  const ending = { kind: 'completed', result: undefined } as const;
  expect(await finish({ job, ending, progress: progress.unwritten })).toEqual({ kind: 'lost' });
  expect(await inRow()).toBeNull();
  end();
});

test('a run that has ended writes nothing more', async () => {
  const { progress, written, end } = await setup();
  end();
  progress.report('late');
  expect(progress.unwritten).toBeUndefined();
  expect(written).toEqual([]);
});

test('what cannot be kept as JSON, or not be written now, fails nothing and waits for nobody', async () => {
  const { pool, job, progress, inRow, end } = await setup();
  progress.report({ tooBig: 1n });
  await waitFor(async () => expect(await inRow()).toEqual({ unserialisable: true }));
  end();

  const away = createPool({
    url: 'postgres://127.0.0.1:1/none',
    applicationName: 'test',
    max: 1,
    onError: () => undefined,
  });
  const { log, lines } = captureLogs();
  const ended = new AbortController();
  const alone = new Progress(away, job, { signal: ended.signal, log: { logger: log } });
  alone.report('kept for the end');
  await waitFor(() => expect(lines).toContainEqual(expect.objectContaining({ msg: 'progress not written' })));
  expect(alone.unwritten).toBe('kept for the end');
  ended.abort(new Error('ended'));
  await away.end();
  expect((await readRow(pool, job.id)).state).toBe('active');
});

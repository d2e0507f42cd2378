import { rowsOf, useRows } from './rows.fixture.ts';

const rows = useRows();

const PAUSE = 'select outbox.pause_queue(name => $1, paused_by => $2, reason => $3) as changed';
const RESUME = 'select outbox.resume_queue(name => $1) as changed';
const READ = `select paused_at is not null as paused, paused_by, reason from outbox.queues where name = 'reminders'`;

test('a pause says who and why; a second one changes nothing and says so', async () => {
  const { pool } = rows.database;
  expect(await rowsOf(pool, PAUSE, ['reminders', 'ada', 'provider is down'])).toEqual([{ changed: true }]);
  expect(await rowsOf(pool, PAUSE, ['reminders', 'ben', 'other'])).toEqual([{ changed: false }]);
  expect(await rowsOf(pool, READ)).toEqual([{ paused: true, paused_by: 'ada', reason: 'provider is down' }]);
});

test('a resume forgets who and why; a second one changes nothing and says so', async () => {
  const { pool } = rows.database;
  await pool.query(PAUSE, ['reminders', 'ada', null]);
  expect(await rowsOf(pool, RESUME, ['reminders'])).toEqual([{ changed: true }]);
  expect(await rowsOf(pool, RESUME, ['reminders'])).toEqual([{ changed: false }]);
  expect(await rowsOf(pool, READ)).toEqual([{ paused: false, paused_by: null, reason: null }]);
});

test('a pause that says not who is refused', async () => {
  await expect(rows.database.pool.query(PAUSE, ['reminders', null, null])).rejects.toMatchObject({
    constraint: 'a_pause_says_who',
  });
});

test.each([
  [PAUSE, ['no-such-queue', 'ada', null]],
  [RESUME, ['no-such-queue']],
])('a queue that does not exist is OB006, with a hint where the names are: %s', async (sql, values) => {
  await expect(rows.database.pool.query(sql, values)).rejects.toMatchObject({
    code: 'OB006',
    hint: expect.stringContaining('outbox.queues') as string,
  });
});

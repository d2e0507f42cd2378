import { createPool, type Pool } from '@outbox/core';
import { createTestDatabase, handlerContext, waitFor, type TestDatabase } from '@outbox/testing';
import { createCrew, insertAutoSync, respond, setStatus, type AutoSyncWish } from '../reminders/auto-sync.fixture.ts';
import { handlePauseCheck } from './handler.ts';

let database: TestDatabase;
/** Can do what the worker can, and no more. */
let worker: Pool;

beforeAll(async () => {
  database = await createTestDatabase();
  const options = { applicationName: 'pause check', max: 2, onError: () => undefined };
  worker = createPool({ url: database.url, role: 'outbox_worker', ...options });
});
afterAll(async () => {
  await worker.end();
  await database.drop();
});

/** An auto sync of a crew of five, `answers` of whom have answered. */
async function setup(answers: number, wish: AutoSyncWish = {}) {
  const { pool } = database;
  const crew = await createCrew(pool, ['1', '2', '3', '4', '5']);
  const autoSyncId = await insertAutoSync(pool, crew, wish);
  await respond(pool, autoSyncId, crew.contactIds.slice(0, answers));
  const attempt = () => handlePauseCheck({ autoSyncId }, handlerContext(worker, { dependencies: {} }));
  return { pool, autoSyncId, attempt };
}

async function stateOf(autoSyncId: string): Promise<unknown> {
  const { rows } = await database.pool.query<Record<string, unknown>>(
    'select status, paused_at is not null as has_pause from public.auto_syncs where id = $1',
    [autoSyncId],
  );
  return rows[0];
}

const PAUSED = { status: 'paused', has_pause: true };
const RUNNING = { status: 'running', has_pause: false };

describe('an auto sync that is short of answers is paused, and the result says how short', () => {
  test.each<[string, number, number, AutoSyncWish]>([
    ['everyone', 4, 5, {}],
    ['a critical mass', 1, 2, { responseGoal: 'critical_mass', metadata: { critical_mass: 2 } }],
    ['half of the crew', 2, 3, { responseGoal: 'critical_mass' }],
  ])('of %s', async (_goal, responseCount, responsesNeeded, wish) => {
    const { autoSyncId, attempt } = await setup(responseCount, wish);
    expect(await attempt()).toEqual({ kind: 'done', result: { responseCount, responsesNeeded } });
    expect(await stateOf(autoSyncId)).toEqual(PAUSED);
  });
});

describe('an auto sync whose goal is met goes on running', () => {
  test.each<[string, number, number, AutoSyncWish]>([
    ['everyone', 5, 5, {}],
    ['a critical mass', 2, 2, { responseGoal: 'critical_mass', metadata: { critical_mass: 2 } }],
    ['more than a critical mass', 4, 2, { responseGoal: 'critical_mass', metadata: { critical_mass: 2 } }],
    ['half of the crew', 3, 3, { responseGoal: 'critical_mass' }],
  ])('by %s', async (_goal, responseCount, responsesNeeded, wish) => {
    const { autoSyncId, attempt } = await setup(responseCount, wish);
    expect(await attempt()).toEqual({
      ...{ kind: 'skipped', reason: 'response_goal_met' },
      result: { responseCount, responsesNeeded },
    });
    expect(await stateOf(autoSyncId)).toEqual(RUNNING);
  });
});

describe('an auto sync that is not running any more is left alone', () => {
  test.each([
    ['paused', 0],
    ['stopped', 0],
    ['completed', 5],
  ] as const)('%s, with %i answers of five', async (status, answers) => {
    const { autoSyncId, attempt } = await setup(answers, { status });
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
    expect(await stateOf(autoSyncId)).toEqual({ status, has_pause: false });
  });

  test('deleted', async () => {
    const { pool, autoSyncId, attempt } = await setup(0);
    await pool.query('delete from public.auto_syncs where id = $1', [autoSyncId]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
  });

  test('stopped at the same moment: the stop wins', async () => {
    const { pool, autoSyncId, attempt } = await setup(0);
    const business = await pool.connect();
    await business.query('begin');
    await setStatus(business, autoSyncId, 'stopped');
    const attempted = attempt();
    await waitFor(async () => {
      const waiting = `select 1 from pg_stat_activity where application_name = 'pause check' and wait_event_type = 'Lock'`;
      expect((await pool.query(waiting)).rows).toHaveLength(1);
    });
    await business.query('commit');
    business.release();
    expect(await attempted).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
    expect(await stateOf(autoSyncId)).toEqual({ status: 'stopped', has_pause: false });
  });
});

test('a second run of the same check changes nothing', async () => {
  const { pool, autoSyncId, attempt } = await setup(0);
  await attempt();
  const pausedAt = 'select paused_at from public.auto_syncs where id = $1';
  const { rows: before } = await pool.query(pausedAt, [autoSyncId]);
  expect(await attempt()).toEqual({ kind: 'skipped', reason: 'auto_sync_not_running' });
  expect((await pool.query(pausedAt, [autoSyncId])).rows).toEqual(before);
});

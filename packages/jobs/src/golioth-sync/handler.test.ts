import { startGoliothSimulator, type GoliothSimulator } from '@outbox/simulators';
import { createPool, MINUTE, type JobContext, type Pool } from '@outbox/core';
import { createTestDatabase, handlerContext, type TestDatabase } from '@outbox/testing';
import { createGoliothClient, type GoliothClient } from './golioth-client.ts';
import type { GoliothDependencies } from './golioth-settings.ts';
import { handleSyncDevices } from './handler.ts';
import { createIntegration, insertSchedule } from './schedules.fixture.ts';
import * as store from './store.ts';

const KEY = 'key-of-plant';

let database: TestDatabase;
/** Can do what the worker can, and no more. */
let worker: Pool;
let golioth: GoliothSimulator;

beforeAll(async () => {
  database = await createTestDatabase();
  const options = { applicationName: 'handler test', max: 3, onError: () => undefined };
  worker = createPool({ url: database.url, role: 'outbox_worker', ...options });
});
beforeEach(async () => {
  golioth = await startGoliothSimulator();
  golioth.addProject({ id: 'plant', apiKey: KEY });
});
afterEach(() => golioth.close());
afterAll(async () => {
  await worker.end();
  await database.drop();
});

interface Wish {
  projectId?: string | null;
  apiKey?: string | null;
  settingsKey?: string;
  wrapClient?: (client: GoliothClient) => GoliothClient;
}

/** A schedule of an integration, its job as the trigger wrote it, and a way to run that job's attempts. */
async function setup({ projectId = 'plant', apiKey = KEY, settingsKey, wrapClient = (client) => client }: Wish = {}) {
  const integration = await createIntegration(database.pool, { projectId, apiKey });
  const scheduleId = await insertSchedule(database.pool, integration.id);
  const { rows } = await database.pool.query<{ id: string }>(
    'update outbox.jobs set holds_key = false where key = $1 returning id',
    [scheduleId],
  );
  const client = wrapClient(createGoliothClient({ baseUrl: golioth.url, timeoutMs: 2_000 }));
  const dependencies: GoliothDependencies = { golioth: { client, apiKey: settingsKey } };
  const context = handlerContext(worker, { jobId: rows[0]?.id ?? 'missing', dependencies });
  const attempt = (overrides: Partial<JobContext> = {}) =>
    handleSyncDevices({ integrationId: integration.id, scheduleId }, { ...context, ...overrides });
  return { integrationId: integration.id, scheduleId, attempt };
}

function addDevices(count: number): void {
  for (let n = 0; n < count; n += 1) golioth.setDevice('plant', { id: `d${n}`, name: `sensor ${n}` });
}

async function devicesOf(integrationId: string) {
  const { rows } = await database.pool.query<Record<string, unknown>>(
    `select external_id as id, name, missing_since is not null as missing from public.devices
     where integration_id = $1 order by external_id`,
    [integrationId],
  );
  return rows;
}

async function integrationOf(id: string) {
  const { rows } = await database.pool.query<Record<string, unknown>>(
    `select status, last_error, last_synced_at is not null as synced from public.integrations where id = $1`,
    [id],
  );
  return rows[0];
}

const WELL = { status: 'active', last_error: null, synced: true };
const NEVER_SYNCED = { status: 'active', last_error: null, synced: false };

describe('a sync', () => {
  test('adds new devices, updates known ones, and marks as missing those that are gone', async () => {
    const { integrationId, attempt } = await setup();
    addDevices(3);
    expect(await attempt()).toEqual({ kind: 'done', result: { devices: 3, missing: 0, complete: true } });
    golioth.setDevice('plant', { id: 'd0', name: 'renamed' });
    golioth.removeDevice('plant', 'd1');
    golioth.setDevice('plant', { id: 'd9', name: 'new' });
    expect(await attempt()).toEqual({ kind: 'done', result: { devices: 3, missing: 1, complete: true } });
    expect(await devicesOf(integrationId)).toEqual([
      { id: 'd0', name: 'renamed', missing: false },
      { id: 'd1', name: 'sensor 1', missing: true },
      { id: 'd2', name: 'sensor 2', missing: false },
      { id: 'd9', name: 'new', missing: false },
    ]);
    expect(await integrationOf(integrationId)).toEqual(WELL);
  });

  test('counts a missing device once, and takes one that comes back as the one it was', async () => {
    const { integrationId, attempt } = await setup();
    addDevices(1);
    await attempt();
    golioth.removeDevice('plant', 'd0');
    expect(await attempt()).toMatchObject({ result: { missing: 1 } });
    expect(await attempt()).toMatchObject({ result: { missing: 0 } });
    addDevices(1);
    await attempt();
    expect(await devicesOf(integrationId)).toEqual([{ id: 'd0', name: 'sensor 0', missing: false }]);
  });

  test.each([
    [99, 1],
    [100, 2],
    [250, 3],
  ])('reads %i devices with %i calls, each in its turn (context.call)', async (count, calls) => {
    const { integrationId, attempt } = await setup();
    addDevices(count);
    let turns = 0;
    const signal = new AbortController().signal;
    const call: JobContext['call'] = (request) => {
      turns += 1;
      return request(signal);
    };
    expect(await attempt({ call })).toMatchObject({ result: { devices: count, complete: true } });
    expect([turns, golioth.requests().length]).toEqual([calls, calls]);
    expect(await devicesOf(integrationId)).toHaveLength(count);
  });

  test('during which devices go and shift the pages marks none as missing; the next one does', async () => {
    let betweenPages = () => undefined as void;
    const wrapClient = (client: GoliothClient): GoliothClient => ({
      listDevices: async (...args) => {
        const page = await client.listDevices(...args);
        betweenPages();
        return page;
      },
    });
    const { integrationId, attempt } = await setup({ wrapClient });
    addDevices(150);
    await attempt();
    betweenPages = () => golioth.removeDevice('plant', 'd0');
    expect(await attempt()).toMatchObject({ result: { missing: 0, complete: false } });
    expect((await devicesOf(integrationId)).filter(({ missing }) => missing)).toEqual([]);
    expect(await attempt()).toMatchObject({ result: { missing: 1, complete: true } });
  });

  test('keeps a device whose name holds what Postgres cannot', async () => {
    const { integrationId, attempt } = await setup();
    golioth.setDevice('plant', { id: 'd0', name: 'a\u0000b\ud83dc', tagIds: ['\u0000'] });
    await attempt();
    expect(await devicesOf(integrationId)).toEqual([{ id: 'd0', name: 'ab\ufffdc', missing: false }]);
  });

  test('that began earlier overwrites nothing of a later one', async () => {
    const { integrationId, attempt } = await setup();
    addDevices(1);
    await attempt();
    const stale = { id: 'd0', name: 'long ago', hardwareIds: [], tagIds: [], enabled: true };
    const nulls = { blueprintId: null, cohortId: null, createdAt: null, updatedAt: null };
    const devices = [{ ...stale, ...nulls, lastReportAt: null, lastSeenOnlineAt: null }];
    const startedAt = new Date(Date.now() - 5 * MINUTE).toISOString();
    await store.recordDevices(worker, { integrationId, startedAt, devices });
    await store.recordFailure(worker, { integrationId, startedAt, message: 'It was refused.' });
    expect(await devicesOf(integrationId)).toMatchObject([{ name: 'sensor 0' }]);
    expect(await integrationOf(integrationId)).toEqual(WELL);
  });

  test('of a schedule that was disabled meanwhile is skipped, and nobody is called', async () => {
    const { scheduleId, attempt } = await setup();
    await database.pool.query('update public.auto_sync_schedules set enabled = false where id = $1', [scheduleId]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'schedule_not_enabled' });
    expect(golioth.requests()).toEqual([]);
  });

  test('of an integration that is none of Golioth is skipped', async () => {
    const { integrationId, attempt } = await setup();
    await database.pool.query(`update public.integrations set provider = 'other' where id = $1`, [integrationId]);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'integration_not_found' });
  });
});

describe('the key', () => {
  test('of the settings serves integrations that have none', async () => {
    const { attempt } = await setup({ apiKey: null, settingsKey: KEY });
    expect(await attempt()).toMatchObject({ kind: 'done' });
  });

  test('of the integration comes first', async () => {
    const { attempt } = await setup({ settingsKey: 'another-key' });
    expect(await attempt()).toMatchObject({ kind: 'done' });
  });
});

describe('what only a person can mend fails at once and is shown on the integration', () => {
  test.each<[string, Wish, string, string]>([
    ['a key that is refused', { apiKey: 'wrong-key' }, 'golioth_401', 'refuses the API key'],
    ['a project that is gone', { projectId: 'gone' }, 'golioth_404', 'no such project'],
    ['no key', { apiKey: null }, 'golioth_not_configured', 'has no API key'],
    ['no project', { projectId: ' ' }, 'golioth_not_configured', 'has no project'],
  ])('%s', async (_what, wish, code, said) => {
    const { integrationId, attempt } = await setup(wish);
    await expect(attempt()).rejects.toMatchObject({ name: 'PermanentError', code });
    const shown = await integrationOf(integrationId);
    expect(shown).toMatchObject({ status: 'error', last_error: expect.stringContaining(said) as string });
    expect(String(shown?.last_error)).not.toContain('wrong-key');
  });

  test('a right that was taken away (403); once it is mended, the next run takes the error away', async () => {
    const { integrationId, attempt } = await setup();
    golioth.fault({ kind: 'status', status: 403 });
    await expect(attempt()).rejects.toMatchObject({ code: 'golioth_403' });
    expect(await integrationOf(integrationId)).toMatchObject({ status: 'error' });
    await attempt();
    expect(await integrationOf(integrationId)).toEqual(WELL);
  });

  test('an integration that its user has put to rest is not woken by a sync that goes well', async () => {
    const { integrationId, attempt } = await setup();
    await database.pool.query(`update public.integrations set status = 'paused' where id = $1`, [integrationId]);
    await attempt();
    expect(await integrationOf(integrationId)).toMatchObject({ status: 'paused' });
  });
});

describe('what passes is no news for the integration, and the next attempt makes up for it', () => {
  test.each([
    ['500', { kind: 'status', status: 500 }, 'ProviderUnavailableError'],
    ['429', { kind: 'status', status: 429, retryAfter: '3' }, 'RateLimitedError'],
    ['a connection that breaks', { kind: 'drop-before' }, 'ProviderUnavailableError'],
    ['an answer that is HTML', { kind: 'html' }, 'ProviderUnavailableError'],
    ['an answer that comes too late', { kind: 'delay', delayMs: 4_000 }, 'ProviderUnavailableError'],
  ] as const)('%s', async (_what, fault, name) => {
    const { integrationId, attempt } = await setup();
    addDevices(2);
    golioth.fault(fault);
    await expect(attempt()).rejects.toMatchObject({ name });
    expect(await integrationOf(integrationId)).toEqual(NEVER_SYNCED);
    expect(await attempt()).toMatchObject({ kind: 'done', result: { devices: 2 } });
    expect(await integrationOf(integrationId)).toEqual(WELL);
  });

  test('in the middle of the pages: what was read is kept, and nothing is marked as missing', async () => {
    const { integrationId, attempt } = await setup();
    addDevices(150);
    await attempt();
    golioth.removeDevice('plant', 'd149');
    const failing: JobContext['call'] = async (request) => {
      if (golioth.requests().length === 3) golioth.fault({ kind: 'status', status: 503 });
      return request(new AbortController().signal);
    };
    await expect(attempt({ call: failing })).rejects.toMatchObject({ name: 'ProviderUnavailableError' });
    expect((await devicesOf(integrationId)).filter(({ missing }) => missing)).toEqual([]);
  });
});

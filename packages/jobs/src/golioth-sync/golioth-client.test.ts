import { PermanentError, ProviderUnavailableError, RateLimitedError } from '@outbox/core';
import { startGoliothSimulator, type GoliothSimulator } from '@outbox/simulators';
import { createGoliothClient } from './golioth-client.ts';

const ACCESS = { projectId: 'plant', apiKey: 'key-of-plant' };

let golioth: GoliothSimulator;
beforeEach(async () => {
  golioth = await startGoliothSimulator();
  golioth.addProject({ id: ACCESS.projectId, apiKey: ACCESS.apiKey });
});
afterEach(() => golioth.close());

function list(page = 0, { access = ACCESS, timeoutMs = 2_000, signal = new AbortController().signal } = {}) {
  return createGoliothClient({ baseUrl: golioth.url, timeoutMs }).listDevices(access, page, signal);
}

/** What it threw; the test fails when it did not. */
async function errorOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => Promise.reject(new Error('It did not throw.')),
    (error: unknown) => error,
  );
}

test('a device is read with what the application keeps of it', async () => {
  golioth.setDevice('plant', {
    id: '64194746a946a2ad67aba7ad',
    name: 'sensor-1',
    hardwareIds: ['DE:AD'],
    tagIds: ['t1'],
    blueprintId: 'b1',
    enabled: false,
    createdAt: '2026-01-01T00:00:00Z',
    updatedAt: '2026-01-02T00:00:00Z',
    metadata: { lastReport: '2026-01-03T00:00:00.5Z', lastSeenOnline: null, status: '-' },
  });
  expect(await list()).toEqual({
    total: 1,
    devices: [
      {
        id: '64194746a946a2ad67aba7ad',
        name: 'sensor-1',
        hardwareIds: ['DE:AD'],
        tagIds: ['t1'],
        blueprintId: 'b1',
        cohortId: null,
        enabled: false,
        createdAt: '2026-01-01T00:00:00Z',
        updatedAt: '2026-01-02T00:00:00Z',
        lastReportAt: '2026-01-03T00:00:00.5Z',
        lastSeenOnlineAt: null,
      },
    ],
  });
});

test('pages count from 0, and hold a hundred each', async () => {
  for (let n = 0; n < 101; n += 1) golioth.setDevice('plant', { id: `d${n}`, name: `sensor ${n}` });
  const pages = [await list(0), await list(1), await list(2)];
  expect(pages.map(({ devices, total }) => [devices.length, total])).toEqual([
    [100, 101],
    [1, 101],
    [0, 101],
  ]);
});

test.each([
  ['a key that is refused', { projectId: 'plant', apiKey: 'another-key' }, 401],
  ['a project that is gone', { projectId: 'no/such', apiKey: 'key-of-plant' }, 404],
])('%s is permanent, and the error names the project and not the key', async (_what, access, status) => {
  const error = await errorOf(list(0, { access }));
  expect(error).toBeInstanceOf(PermanentError);
  expect(error).toMatchObject({
    code: `golioth_${status}`,
    message: expect.stringContaining(access.projectId) as string,
  });
  expect(String(error)).not.toContain(access.apiKey);
});

test.each([400, 403])('status %i is permanent', async (status) => {
  golioth.fault({ kind: 'status', status });
  expect(await errorOf(list())).toMatchObject({ code: `golioth_${status}` });
});

test('429 asks to wait as long as Retry-After says, and holds this project alone', async () => {
  golioth.fault({ kind: 'status', status: 429, retryAfter: '7' });
  const error = await errorOf(list());
  expect(error).toBeInstanceOf(RateLimitedError);
  expect(error).toMatchObject({ retryAfterMs: 7_000, scope: 'tenant' });
});

test.each([500, 503, 408])('status %i is worth another attempt', async (status) => {
  golioth.fault({ kind: 'status', status });
  expect(await errorOf(list())).toBeInstanceOf(ProviderUnavailableError);
});

test.each([
  ['a connection that breaks', { kind: 'drop-before' }],
  ['an answer that comes too late', { kind: 'delay', delayMs: 1_000 }],
  ['a page of HTML instead of devices', { kind: 'html' }],
] as const)('%s is worth another attempt, and a read is never ambiguous', async (_what, fault) => {
  golioth.fault(fault);
  const error = await errorOf(list(0, { timeoutMs: 200 }));
  expect(error).toBeInstanceOf(ProviderUnavailableError);
  expect(error).toMatchObject({ ambiguous: false });
});

test('devices that are not as documented are worth another attempt, and are not quoted', async () => {
  golioth.setDevice('plant', { id: 'd1', hardwareIds: 'secret-hardware' });
  const error = await errorOf(list());
  expect(error).toMatchObject({
    code: 'provider_unavailable',
    message: expect.stringContaining('list.0.hardwareIds') as string,
  });
  expect(String(error)).not.toContain('secret-hardware');
});

test('an instant that nobody can read is left out; the device is not', async () => {
  golioth.setDevice('plant', {
    id: 'd1',
    createdAt: 'yesterday',
    metadata: { lastReport: '-', lastSeenOnline: '2026-01-02T00:00:00Z' },
  });
  const { devices } = await list();
  expect(devices).toMatchObject([
    { id: 'd1', createdAt: null, lastReportAt: null, lastSeenOnlineAt: '2026-01-02T00:00:00Z' },
  ]);
});

test('an abort ends the waiting', async () => {
  golioth.fault({ kind: 'delay', delayMs: 5_000 });
  const abort = new AbortController();
  const waiting = errorOf(list(0, { signal: abort.signal }));
  abort.abort();
  expect(await waiting).toBeInstanceOf(ProviderUnavailableError);
});

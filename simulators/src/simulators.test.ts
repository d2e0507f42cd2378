import { startBubbleSimulator } from './bubble/simulator.ts';
import { startGoliothSimulator } from './golioth/simulator.ts';
import { startGoogleSimulator } from './google/simulator.ts';
import { SAMPLE_ACCOUNT, SAMPLE_PROJECT } from './sample-data.ts';
import { startSimulators } from './simulators.ts';

const GOLIOTH_KEY = { 'x-api-key': 'key' };

/** Each provider with a request of its own that is carried out when nothing is scripted. */
const providers = {
  bubble: async () => {
    const bubble = await startBubbleSimulator();
    const init = { method: 'POST', headers: { authorization: 'Bearer token' }, body: '{"name":"A"}' };
    return { simulator: bubble, ask: () => fetch(`${bubble.url}/api/1.1/obj/user`, init) };
  },
  google: async () => {
    const google = await startGoogleSimulator();
    google.addAccount({ refreshToken: 'grant' });
    const form = new URLSearchParams({ grant_type: 'refresh_token', refresh_token: 'grant' });
    return { simulator: google, ask: () => fetch(`${google.url}/token`, { method: 'POST', body: form }) };
  },
  golioth: async () => {
    const golioth = await startGoliothSimulator();
    golioth.addProject({ id: 'hall', apiKey: 'key' });
    return { simulator: golioth, ask: () => fetch(`${golioth.url}/v1/projects`, { headers: GOLIOTH_KEY }) };
  },
};

describe.each(Object.entries(providers))('%s', (_name, start) => {
  let provider: Awaited<ReturnType<typeof start>>;
  beforeEach(async () => void (provider = await start()));
  afterEach(() => provider.simulator.close());

  test('a scripted status hits as often as it says, with its body and headers, and is in the log', async () => {
    const { simulator, ask } = provider;
    simulator.fault({
      kind: 'status',
      status: 429,
      body: { why: 'busy' },
      headers: { 'X-Why': 'busy' },
      retryAfter: 7,
      count: 2,
    });
    const refused = await ask();
    expect([refused.status, refused.headers.get('retry-after'), refused.headers.get('x-why')]).toEqual([
      429,
      '7',
      'busy',
    ]);
    expect(await refused.json()).toEqual({ why: 'busy' });
    expect([(await ask()).status, (await ask()).ok]).toEqual([429, true]);
    expect(simulator.requests()).toMatchObject([
      { status: 429, fault: 'status', at: expect.stringMatching(/Z$/) as string },
      { status: 429, fault: 'status' },
      { fault: null },
    ]);
  });

  test('without more said, a status speaks as the provider does and has no Retry-After', async () => {
    provider.simulator.fault({ kind: 'status', status: 503 });
    const refused = await provider.ask();
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, null]);
    expect(refused.headers.get('content-type')).toContain('json');
  });

  test('html is the page of a proxy', async () => {
    provider.simulator.fault({ kind: 'html' });
    const answer = await provider.ask();
    expect([answer.status, await answer.text()]).toEqual([502, expect.stringContaining('<html>')]);
  });

  test('a delayed answer is the usual one', async () => {
    provider.simulator.fault({ kind: 'delay', delayMs: 1 });
    expect((await provider.ask()).ok).toBe(true);
    expect(provider.simulator.requests()).toMatchObject([{ fault: 'delay' }]);
  });

  test.each(['drop-before', 'drop-after'] as const)('%s resets the connection', async (kind) => {
    provider.simulator.fault({ kind });
    await expect(provider.ask()).rejects.toThrow('fetch failed');
    expect(provider.simulator.requests()).toMatchObject([{ status: null, fault: kind }]);
    expect((await provider.ask()).ok).toBe(true);
  });

  test('a fault meant for another path or method waits; cleared, it never comes', async () => {
    const { simulator, ask } = provider;
    simulator.fault({ kind: 'html', match: { path: '/elsewhere' }, count: 1_000_000 });
    simulator.fault({ kind: 'html', match: { method: 'delete' } });
    expect((await ask()).ok).toBe(true);
    simulator.fault({ kind: 'html', untilMs: 60_000 });
    expect((await ask()).status).toBe(502);
    simulator.clearFaults();
    expect((await ask()).ok).toBe(true);
    simulator.reset();
    expect(simulator.requests()).toEqual([]);
  });
});

test.each([
  ['drop-before', 0],
  ['drop-after', 1],
] as const)('%s of a Bubble creation leaves %i things', async (kind, count) => {
  const { simulator: bubble, ask } = await providers.bubble();
  bubble.fault({ kind });
  await expect(ask()).rejects.toThrow('fetch failed');
  expect(bubble.count('user')).toBe(count);
  await bubble.close();
});

test('one port serves all providers, and one page shows what arrived, escaped', async () => {
  const simulators = await startSimulators();
  const { url } = simulators;
  const form = new URLSearchParams({ grant_type: 'refresh_token', refresh_token: SAMPLE_ACCOUNT.refreshToken });
  const path = `/golioth/v1/projects/${SAMPLE_PROJECT.id}/devices/<b>x`;
  const answers = [
    await fetch(`${url}/bubble/api/1.1/obj/user`, { headers: { authorization: 'Bearer token' } }),
    await fetch(`${url}/google/token`, { method: 'POST', body: form }),
    await fetch(url + path, { headers: { 'x-api-key': SAMPLE_PROJECT.apiKey } }),
    await fetch(`${url}/2010-04-01/Accounts/AC1/Messages.json`),
    await fetch(`${url}/bubble/requests`),
  ];
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 404, 401, 200]);

  const page = await (await fetch(url)).text();
  for (const shown of ['SMS simulator', 'Bubble', 'Google', 'Golioth', '/api/1.1/obj/user', 'POST /token']) {
    expect(page).toContain(shown);
  }
  expect(page).not.toContain('<b>x');
  await simulators.close();
});

import { startGoliothSimulator, type GoliothSimulator } from './simulator.ts';

const DEVICES = '/v1/projects/hall/devices';

let golioth: GoliothSimulator;
beforeEach(async () => {
  golioth = await startGoliothSimulator();
  golioth.addProject({ id: 'hall', apiKey: 'key' });
});
afterEach(() => golioth.close());

async function get(path: string, headers: Record<string, string> = { 'x-api-key': 'key' }) {
  const response = await fetch(golioth.url + path, { headers });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const idsOf = ({ body }: { body: Record<string, unknown> }) => (body.list as { id: string }[]).map(({ id }) => id);

test('devices come in pages counted from 0, with the total', async () => {
  for (const id of ['a', 'b', 'c']) golioth.setDevice('hall', { id });
  const first = await get(`${DEVICES}?page=0&perPage=2`);
  expect(first).toMatchObject({ status: 200, body: { page: 0, perPage: 2, total: 3 } });
  const second = await get(`${DEVICES}?page=1&perPage=2`);
  expect([idsOf(first), idsOf(second)]).toEqual([['a', 'b'], ['c']]);
  expect((await get(DEVICES)).body).toMatchObject({ page: 0, perPage: 100 });
});

test('a device is replaced by its id, and gone once removed', async () => {
  golioth.setDevice('hall', { id: 'a', name: 'Old' });
  golioth.setDevice('hall', { id: 'a', name: 'New' });
  expect((await get(`${DEVICES}/a`)).body).toMatchObject({ data: { id: 'a', name: 'New', enabled: true } });
  golioth.removeDevice('hall', 'a');
  expect(await get(`${DEVICES}/a`)).toMatchObject({ status: 404, body: { code: 5 } });
  expect((await get(DEVICES)).body).toMatchObject({ list: [], total: 0 });
});

test.each([{}, { 'x-api-key': 'wrong' }, { authorization: 'Basic a2V5' }])(
  'asks for an API key: %j',
  async (headers) => {
    expect(await get(DEVICES, headers as Record<string, string>)).toEqual({
      status: 401,
      body: { code: 16, message: 'invalid API key', details: [] },
    });
  },
);

test('lets the key in as a bearer token too', async () => {
  expect((await get(DEVICES, { authorization: 'Bearer key' })).status).toBe(200);
});

test('a key opens its own project and no other', async () => {
  golioth.addProject({ id: 'cellar', apiKey: 'other' });
  expect(await get('/v1/projects/cellar/devices')).toMatchObject({ status: 404, body: { code: 5 } });
  expect(idsOf(await get('/v1/projects'))).toEqual(['hall']);
  expect((await get('/v1/projects/hall')).body).toMatchObject({ data: { id: 'hall' } });
});

test.each(['perPage=101', 'perPage=0', 'page=-1'])('refuses %s', async (query) => {
  expect(await get(`${DEVICES}?${query}`)).toMatchObject({ status: 400, body: { code: 3, details: [] } });
});

import { createServer, type Server } from 'node:http';
import { UnavailableError } from './errors.ts';
import { startHealthServer, type Checks } from './health-server.ts';
import { listen, portOf } from './listen.ts';

const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

async function setup(checks: Checks = {}, liveness: Checks = {}) {
  const server = await startHealthServer(0, checks, liveness);
  servers.push(server);
  const ask = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${portOf(server)}${path}`);
    return { status: response.status, body: await response.json() };
  };
  return { port: portOf(server), ask };
}

const fine = () => Promise.resolve(undefined);

describe('/readyz', () => {
  test('answers 200 when every check is fine', async () => {
    const { ask } = await setup({ postgres: fine, redis: fine });
    expect(await ask('/readyz')).toEqual({ status: 200, body: { status: 'ready' } });
  });

  test('answers 503 with the name and the words of every check that fails, and of no other', async () => {
    const { ask } = await setup({
      postgres: fine,
      redis: () => Promise.resolve('is loading'),
      clock: () => Promise.reject(new Error('internals')),
      schema: () => Promise.reject(Object.assign(new Error('internals'), { code: '57P03' })),
    });
    expect(await ask('/readyz')).toEqual({
      status: 503,
      body: { status: 'not ready', failed: { redis: 'is loading', clock: 'does not answer', schema: '57P03' } },
    });
  });

  test('asks anew every time', async () => {
    const problems = ['is starting', undefined];
    const { ask } = await setup({ postgres: () => Promise.resolve(problems.shift()) });
    expect([(await ask('/readyz')).status, (await ask('/readyz')).status]).toEqual([503, 200]);
  });
});

test('/healthz answers 200 and tests no dependency', async () => {
  let asked = 0;
  const { ask } = await setup({ postgres: () => Promise.resolve(`asked ${(asked += 1)} times`) });
  expect(await ask('/healthz')).toEqual({ status: 200, body: { status: 'ok' } });
  expect(asked).toBe(0);
});

test('/healthz answers 503 with what only a restart mends, and /readyz knows nothing of it', async () => {
  const problems = ['reminders: jobs wait, and none is taken', undefined];
  const { ask } = await setup({ postgres: fine }, { queues: () => Promise.resolve(problems.shift()) });
  expect(await ask('/readyz')).toMatchObject({ status: 200 });
  expect(await ask('/healthz')).toEqual({
    status: 503,
    body: { status: 'not ok', failed: { queues: 'reminders: jobs wait, and none is taken' } },
  });
  expect(await ask('/healthz')).toEqual({ status: 200, body: { status: 'ok' } });
});

describe('a port that is taken', () => {
  test('stops the health server with one line that names the port and HEALTH_PORT', async () => {
    const { port } = await setup();
    const refused: unknown = await startHealthServer(port, {}).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(UnavailableError);
    expect(refused).toHaveProperty(
      'message',
      `Port ${port} is already in use. Free it, or set HEALTH_PORT to another.`,
    );
  });

  test('is told with the setting of whoever wanted to listen', async () => {
    const { port } = await setup();
    const refused: unknown = await listen(createServer(), { port, setting: 'PORT' }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(UnavailableError);
    expect(refused).toHaveProperty('message', `Port ${port} is already in use. Free it, or set PORT to another.`);
  });
});

import { once } from 'node:events';
import { createServer } from 'node:net';
import { freePort } from './ports.ts';

describe('freePort', () => {
  it('returns the preferred port when nobody listens on it', async () => {
    const port = await freePort();
    expect(await freePort(port)).toBe(port);
  });

  it.each(['127.0.0.1', '0.0.0.0'])('returns another when somebody listens on it at %s', async (host) => {
    const port = await freePort();
    const server = createServer().listen(port, host);
    await once(server, 'listening');
    const other = await freePort(port);
    server.close();
    expect(other).not.toBe(port);
    expect(other).toBeGreaterThan(0);
  });
});

import { once } from 'node:events';
import { Agent, createServer, get, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { UnavailableError } from './errors.ts';
import { closeServer, listen, portOf } from './listen.ts';

async function serve(): Promise<{ server: Server; url: string; nextRequest: () => Promise<ServerResponse> }> {
  const server = createServer();
  await listen(server, { host: '127.0.0.1', port: 0, setting: 'PORT' });
  const nextRequest = async () => {
    const [, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
    return response;
  };
  return { server, url: `http://127.0.0.1:${portOf(server)}`, nextRequest };
}

describe('listen', () => {
  it('listens on the named address only', async () => {
    const { server } = await serve();
    expect(server.address()).toMatchObject({ address: '127.0.0.1' });
    await closeServer(server, 1_000);
  });

  it('names the port and its setting when it is in use', async () => {
    const { server } = await serve();
    const second = listen(createServer(), { host: '127.0.0.1', port: portOf(server), setting: 'PORT' });
    await expect(second).rejects.toThrow(UnavailableError);
    await expect(second).rejects.toThrow(`Port ${portOf(server)} is already in use. Free it, or set PORT to another.`);
    await closeServer(server, 1_000);
  });
});

describe('closeServer', () => {
  it('lets a request under way finish, and then closes its kept-alive connection', async () => {
    const { server, url, nextRequest } = await serve();
    // Neither side gives the connection up by itself.
    server.keepAliveTimeout = 0;
    const agent = new Agent({ keepAlive: true });
    const [received, answered] = [nextRequest(), once(get(url, { agent }), 'response')];
    const response = await received;
    // The head tells the client that the connection stays open.
    response.write('fini');
    const closed = closeServer(server, 60_000);
    response.end('shed');

    const [answer] = (await answered) as [IncomingMessage];
    expect(answer.headers.connection).toBe('keep-alive');
    expect(Buffer.concat(await answer.toArray()).toString()).toBe('finished');
    await closed;
    agent.destroy();
  });

  it('cuts a request that does not finish before the deadline', async () => {
    const { server, url, nextRequest } = await serve();
    const received = nextRequest();
    const cut = expect(once(get(url), 'response')).rejects.toThrow('socket hang up');
    await received;
    await closeServer(server, 50);
    await cut;
  });
});

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

const HOST = '127.0.0.1';

/**
 * A TCP port on 127.0.0.1 that nobody listens on: `preferred` when it is free, else one the system picks. Free now is
 * not free for ever: whoever listens later must cope with a port that was taken in between.
 */
export async function freePort(preferred?: number): Promise<number> {
  if (preferred !== undefined && !(await answers(preferred)) && (await canListen(preferred))) return preferred;
  const server = createServer().listen(0, HOST);
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('A TCP server has no port');
  return address.port;
}

/** macOS lets us listen on 127.0.0.1 beside somebody who listens on all addresses, so listening alone proves nothing. */
async function answers(port: number): Promise<boolean> {
  const socket = connect(port, HOST);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function canListen(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, HOST);
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}

import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { UnavailableError } from '@outbox/core';

export interface ServerOptions {
  /** 0, the default, takes a free port. */
  port?: number;
  host?: string;
}

export interface SimulatorServer {
  readonly url: string;
  readonly port: number;
  /** Closes the port and every connection. Closing twice is harmless. */
  close(): Promise<void>;
}

/** Opens a port for one simulator. Throws `UnavailableError` when the port is taken. */
export async function startServer(app: RequestListener, options: ServerOptions = {}): Promise<SimulatorServer> {
  const { port: wanted = 0, host = '127.0.0.1' } = options;
  const server = createServer(app);
  server.listen(wanted, host);
  try {
    await once(server, 'listening');
  } catch (error) {
    const message = `Port ${wanted} of ${host} cannot be opened. Free it, or set PORT to another.`;
    throw new UnavailableError(message, { cause: error });
  }
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : wanted;

  return {
    url: `http://${host}:${port}`,
    port,
    close: async () => {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

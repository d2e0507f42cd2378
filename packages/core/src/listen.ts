import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { UnavailableError } from './errors.ts';
import { codeOf } from './postgres.ts';

export interface Address {
  /** All addresses of this machine unless told otherwise. */
  host?: string;
  /** 0 takes a free one. */
  port: number;
  /** The setting a person changes when the port is taken. */
  setting: string;
}

/** Listens, or throws `UnavailableError` naming the port and its setting. */
export async function listen(server: Server, { host, port, setting }: Address): Promise<Server> {
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (error) {
    const reason = codeOf(error) === 'EADDRINUSE' ? 'is already in use' : `cannot be opened (${codeOf(error)})`;
    throw new UnavailableError(`Port ${port} ${reason}. Free it, or set ${setting} to another.`, { cause: error });
  }
  return server;
}

export function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

const LOOK_FOR_IDLE_EVERY_MS = 50;

/**
 * Takes no new connection, lets the requests under way finish, and cuts after `deadlineMs` milliseconds. A connection
 * that a browser keeps open is closed as soon as it is idle.
 */
export async function closeServer(server: Server, deadlineMs: number): Promise<void> {
  const idle = setInterval(() => server.closeIdleConnections(), LOOK_FOR_IDLE_EVERY_MS);
  const cut = setTimeout(() => server.closeAllConnections(), deadlineMs);
  try {
    await new Promise((resolve) => server.close(resolve));
  } finally {
    clearInterval(idle);
    clearTimeout(cut);
  }
}

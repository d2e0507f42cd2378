import { once } from 'node:events';
import { connect } from 'node:net';
import { isConnectionError } from '@outbox/core';
import { freePort } from '@outbox/local';

class OurError extends Error {}

async function refusedConnection(): Promise<unknown> {
  const socket = connect(await freePort(), '127.0.0.1');
  return once(socket, 'connect').catch((error: unknown) => error);
}

describe('the test environment', () => {
  it('lets errors of Node be the errors they are outside of Jest', async () => {
    const error = await refusedConnection();
    expect(error instanceof Error).toBe(true);
    expect(isConnectionError(error)).toBe(true);
    expect(await fetch('http://127.0.0.1:1/').catch((reason: unknown) => reason instanceof TypeError)).toBe(true);
  });

  it('takes no error for one of another class', async () => {
    expect((await refusedConnection()) instanceof OurError).toBe(false);
    expect(new Error('plain') instanceof OurError).toBe(false);
    expect(new OurError('ours') instanceof Error).toBe(true);
    expect((await refusedConnection()) instanceof TypeError).toBe(false);
  });
});

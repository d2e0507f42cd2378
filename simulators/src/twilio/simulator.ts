import { once } from 'node:events';
import { createServer } from 'node:http';
import { UnavailableError } from '@outbox/core';
import { createTwilioApp, describeSent, type SentMessage, type TwilioAppOptions } from './app.ts';
import { FaultScript, faultSchema, type FaultInput } from './faults.ts';
import { MessageStore } from './messages.ts';
import { RequestLog, type LoggedRequest } from './request-log.ts';

export interface TwilioSimulatorOptions extends Pick<TwilioAppOptions, 'credentials'> {
  /** 0, the default, takes a free port. */
  port?: number;
  host?: string;
  /** So many messages are kept, by default 10,000; older ones are forgotten. */
  messageLimit?: number;
}

export interface TwilioSimulator {
  readonly url: string;
  readonly port: number;
  /** What was accepted, in order. */
  messages(): SentMessage[];
  /** How many those are. */
  readonly messageCount: number;
  /** What was asked, accepted or not, in order. */
  requests(): LoggedRequest[];
  /** Scripts a misbehaviour of the next `count` (default 1) requests that fit. Throws on an invalid one. */
  fault(fault: FaultInput): void;
  /** Faults that have not hit their requests yet will not. */
  clearFaults(): void;
  /** Forgets messages, requests and faults. */
  reset(): void;
  /** Closes the port and every connection. Closing twice is harmless. */
  close(): Promise<void>;
}

/** Starts a simulator of its own: nothing is shared between two. Throws `UnavailableError` when the port is taken. */
export async function startTwilioSimulator(options: TwilioSimulatorOptions = {}): Promise<TwilioSimulator> {
  const { port: wanted = 0, host = '127.0.0.1', messageLimit, ...appOptions } = options;
  const stores = { messages: new MessageStore(messageLimit), faults: new FaultScript(), requests: new RequestLog() };
  const server = createServer(createTwilioApp({ ...appOptions, ...stores }));
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
    messages: () => stores.messages.all().map(describeSent),
    get messageCount() {
      return stores.messages.size;
    },
    requests: () => stores.requests.all(),
    fault: (fault) => stores.faults.add(faultSchema.parse(fault)),
    clearFaults: () => stores.faults.clear(),
    reset: () => {
      stores.messages.clear();
      stores.requests.clear();
      stores.faults.clear();
    },
    close: async () => {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

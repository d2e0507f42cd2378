import { startServer, type ServerOptions, type SimulatorServer } from '../shared/server.ts';
import { createTwilioApp, describeSent, type SentMessage, type TwilioAppOptions } from './app.ts';
import type { FaultInput } from './faults.ts';
import { createTwilioStores, type LoggedRequest } from './stores.ts';

export interface TwilioSimulatorOptions extends TwilioAppOptions, ServerOptions {
  /** So many messages are kept, by default 10,000; older ones are forgotten. */
  messageLimit?: number;
}

export interface TwilioSimulator extends SimulatorServer {
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
}

/** Starts a simulator of its own: nothing is shared between two. Throws `UnavailableError` when the port is taken. */
export async function startTwilioSimulator(options: TwilioSimulatorOptions = {}): Promise<TwilioSimulator> {
  const { messageLimit, ...rest } = options;
  const stores = createTwilioStores(messageLimit);
  const server = await startServer(createTwilioApp(rest, stores), rest);

  return {
    ...server,
    messages: () => stores.messages.all().map(describeSent),
    get messageCount() {
      return stores.messages.size;
    },
    requests: () => stores.requests.all(),
    fault: (fault) => void stores.faults.add(fault),
    clearFaults: () => stores.faults.clear(),
    reset: () => {
      stores.messages.clear();
      stores.requests.clear();
      stores.faults.clear();
    },
  };
}

import { startServer, type ServerOptions, type SimulatorServer } from '../shared/server.ts';
import type { ApiRequest } from '../shared/serve.ts';
import { createBubbleApp, createBubbleStores } from './app.ts';
import type { BubbleFaultInput } from './faults.ts';
import type { Thing } from './things.ts';

export interface BubbleSimulator extends SimulatorServer {
  /** The things of a type, oldest first. */
  things(type: string): Thing[];
  count(type: string): number;
  /** Makes a thing, as somebody else would; returns its id. */
  put(type: string, fields: Record<string, unknown>): string;
  remove(type: string, id: string): void;
  /** What was asked, accepted or not, in order. */
  requests(): ApiRequest[];
  fault(fault: BubbleFaultInput): void;
  clearFaults(): void;
  reset(): void;
}

/** Starts a simulator of its own: nothing is shared between two. Throws `UnavailableError` when the port is taken. */
export async function startBubbleSimulator(options: ServerOptions = {}): Promise<BubbleSimulator> {
  const stores = createBubbleStores();
  const { things, faults, requests } = stores;
  const server = await startServer(createBubbleApp(stores), options);

  return {
    ...server,
    things: (type) => things.all(type),
    count: (type) => things.all(type).length,
    put: (type, fields) => things.add(type, fields),
    remove: (type, id) => void things.remove(type, id),
    requests: () => requests.all(),
    fault: (fault) => void faults.add(fault),
    clearFaults: () => faults.clear(),
    reset: () => {
      for (const store of [things, faults, requests]) store.clear();
    },
  };
}

import { startServer, type ServerOptions, type SimulatorServer } from '../shared/server.ts';
import type { ApiRequest } from '../shared/serve.ts';
import { createGoliothApp, createGoliothStores, type GoliothFaultInput } from './app.ts';
import type { Device } from './projects.ts';

export interface GoliothSimulator extends SimulatorServer {
  addProject(project: { id: string; apiKey: string }): void;
  /** Adds the device, or replaces the one of that id. */
  setDevice(projectId: string, device: Device): void;
  removeDevice(projectId: string, deviceId: string): void;
  /** What was asked, accepted or not, in order. */
  requests(): ApiRequest[];
  fault(fault: GoliothFaultInput): void;
  clearFaults(): void;
  reset(): void;
}

/** Starts a simulator of its own: nothing is shared between two. Throws `UnavailableError` when the port is taken. */
export async function startGoliothSimulator(options: ServerOptions = {}): Promise<GoliothSimulator> {
  const stores = createGoliothStores();
  const { projects, faults, requests } = stores;
  const server = await startServer(createGoliothApp(stores), options);

  return {
    ...server,
    addProject: (project) => projects.add(project),
    setDevice: (projectId, device) => projects.set(projectId, device),
    removeDevice: (projectId, deviceId) => projects.remove(projectId, deviceId),
    requests: () => requests.all(),
    fault: (fault) => void faults.add(fault),
    clearFaults: () => faults.clear(),
    reset: () => {
      for (const store of [projects, faults, requests]) store.clear();
    },
  };
}

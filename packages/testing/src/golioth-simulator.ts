import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What happens to the next request, instead of or before its answer. */
export type GoliothFault =
  | { kind: 'status'; status: number; retryAfter?: string }
  | { kind: 'delay'; delayMs: number }
  | { kind: 'drop-before' }
  | { kind: 'html' };

export interface GoliothSimulator {
  /** Base of the API, before /v1. */
  readonly url: string;
  addProject(project: { id: string; apiKey: string }): void;
  /** Adds the device, or replaces the one of that id. */
  setDevice(projectId: string, device: { id: string } & Record<string, unknown>): void;
  removeDevice(projectId: string, deviceId: string): void;
  /** For the next request that comes; several queue up. */
  fault(fault: GoliothFault): void;
  /** Paths with their queries, in the order they came. */
  requests(): readonly string[];
  close(): Promise<void>;
}

interface Project {
  apiKey: string;
  /** In the order they were added, which is the order they are listed in. */
  devices: Map<string, Record<string, unknown>>;
}

/** The list of a project's devices, as Golioth's Management API gives it: pages count from 0; a key opens one project. */
export async function startGoliothSimulator(): Promise<GoliothSimulator> {
  const projects = new Map<string, Project>();
  const faults: GoliothFault[] = [];
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(request.url ?? '');
    const answer = () => sendDevices(request, response, projects);
    const fault = faults.shift();
    if (fault === undefined) answer();
    else misbehave(fault, response, answer);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    addProject: ({ id, apiKey }) => void projects.set(id, { apiKey, devices: new Map() }),
    setDevice: (projectId, device) =>
      void projects.get(projectId)?.devices.set(device.id, { hardwareIds: [], tagIds: [], enabled: true, ...device }),
    removeDevice: (projectId, deviceId) => void projects.get(projectId)?.devices.delete(deviceId),
    fault: (fault) => void faults.push(fault),
    requests: () => requests,
    close: () => close(server),
  };
}

function misbehave(fault: GoliothFault, response: ServerResponse, answer: () => void): void {
  switch (fault.kind) {
    case 'status':
      send(response, fault.status, refusal(fault.status), fault.retryAfter);
      break;
    case 'delay':
      setTimeout(answer, fault.delayMs).unref();
      break;
    case 'drop-before':
      response.destroy();
      break;
    case 'html':
      response.writeHead(200, { 'content-type': 'text/html' }).end('<html><body>Just a moment</body></html>');
      break;
  }
}

function sendDevices(request: IncomingMessage, response: ServerResponse, projects: Map<string, Project>): void {
  const url = new URL(request.url ?? '', 'http://golioth');
  const [, projectId = ''] = /^\/v1\/projects\/([^/]+)\/devices$/.exec(url.pathname) ?? [];
  const key = request.headers['x-api-key'];
  const project = projects.get(decodeURIComponent(projectId));
  if (![...projects.values()].some(({ apiKey }) => apiKey === key)) return send(response, 401, refusal(401));
  if (project === undefined || project.apiKey !== key) return send(response, 404, refusal(404));

  const page = Number(url.searchParams.get('page') ?? 0);
  const perPage = Number(url.searchParams.get('perPage') ?? 100);
  const devices = [...project.devices.values()];
  send(response, 200, {
    list: devices.slice(page * perPage, (page + 1) * perPage),
    ...{ page, perPage, total: devices.length },
  });
}

function refusal(status: number): unknown {
  return { code: status === 401 ? 16 : 5, message: `refused with ${status}`, details: [] };
}

function send(response: ServerResponse, status: number, body: unknown, retryAfter?: string): void {
  response.writeHead(status, {
    'content-type': 'application/json',
    ...(retryAfter === undefined ? {} : { 'retry-after': retryAfter }),
  });
  response.end(JSON.stringify(body));
}

async function close(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
}

import type { Express, Request } from 'express';
import { z } from 'zod';
import { answerBadInput, mountControls } from '../shared/controls.ts';
import type { Reply } from '../shared/exchange.ts';
import { FaultScript, faultTiming, sharedFaults } from '../shared/faults.ts';
import { requestMatch } from '../shared/match.ts';
import { requestSection } from '../shared/page.ts';
import { RequestLog } from '../shared/request-log.ts';
import { createApiApp, queryOf, readText, serveWith, type ApiRequest } from '../shared/serve.ts';
import { Projects, type Project } from './projects.ts';

/** A misbehaviour the simulator shows. `match` says to which requests; nothing said means any. */
export const goliothFault = z.discriminatedUnion('kind', [
  ...sharedFaults({ ...faultTiming, match: requestMatch.optional() }, {}),
]);

export type GoliothFault = z.output<typeof goliothFault>;
export type GoliothFaultInput = z.input<typeof goliothFault>;

/** What a Golioth simulator remembers. */
export function createGoliothStores(now: () => number = Date.now) {
  return {
    now,
    projects: new Projects(now),
    faults: new FaultScript<GoliothFault, GoliothFaultInput>(goliothFault, now),
    requests: new RequestLog<ApiRequest>(),
  };
}

export type GoliothStores = ReturnType<typeof createGoliothStores>;

const listQuery = z.object({
  page: z.coerce.number().int().min(0).default(0),
  perPage: z.coerce.number().int().min(1).max(100).default(100),
});

/** Projects and devices of Golioth's Management API, as far as they are read. A key opens its own project. It never listens. */
export function createGoliothApp(stores: GoliothStores): Express {
  const { projects } = stores;
  const app = createApiApp();
  mountControls(app, { ...stores, section: () => describeGolioth(stores) });
  app.use(readText);
  const serve = serveWith<GoliothFault>(stores, {
    refusal: (request) => (projectOf(request) ? undefined : refuse(401, 'invalid API key')),
    refuse: ({ status }) => refuse(status, `Scripted fault (${status})`),
  });

  app.get(
    '/v1/projects',
    serve((request) => ({ status: 200, body: { list: [describeProject(projectOf(request))] } })),
  );
  app.get(
    '/v1/projects/:project',
    serve((request) => {
      const project = ownProject(request);
      return project ? { status: 200, body: { data: describeProject(project) } } : refuse(404, 'project not found');
    }),
  );
  app.get(
    '/v1/projects/:project/devices',
    serve((request) => {
      const project = ownProject(request);
      if (!project) return refuse(404, 'project not found');
      const query = listQuery.safeParse(queryOf(request));
      if (!query.success) return refuse(400, z.prettifyError(query.error));
      const { page, perPage } = query.data;
      const devices = [...project.devices.values()];
      const list = devices.slice(page * perPage, (page + 1) * perPage);
      return { status: 200, body: { list, page, perPage, total: devices.length } };
    }),
  );
  app.get(
    '/v1/projects/:project/devices/:device',
    serve((request) => {
      const device = ownProject(request)?.devices.get(String(request.params.device));
      return device ? { status: 200, body: { data: device } } : refuse(404, 'device not found');
    }),
  );
  app.use((_request, response) => {
    const { status, body } = refuse(404, 'Not Found');
    response.status(status).json(body);
  });
  app.use(answerBadInput);
  return app;

  /** The project that the request's key opens. */
  function projectOf(request: Request): Project | undefined {
    const bearer = /^Bearer (.+)$/.exec(request.get('Authorization') ?? '')?.[1];
    return projects.opened(request.get('x-api-key') ?? bearer ?? '');
  }

  /** The project in the path, if the key opens that one: of others it says no more than of none. */
  function ownProject(request: Request): Project | undefined {
    const project = projectOf(request);
    return project?.id === String(request.params.project) ? project : undefined;
  }
}

/** What gateways in front of gRPC make of its codes. */
const GRPC_CODE: Record<number, number> = { 400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4 };

function refuse(status: number, message: string): Reply {
  return { status, body: { code: GRPC_CODE[status] ?? 2, message, details: [] } };
}

function describeProject(project: Project | undefined): object {
  return { id: project?.id, name: project?.id, organizationId: 'organization' };
}

export function describeGolioth({ projects, requests, faults }: GoliothStores) {
  const counts = projects.all().map(({ id, devices }) => `${devices.size} devices in ${id}`);
  return requestSection('Golioth', requests.all(), faults.all(), counts.length > 0 ? counts : ['no projects yet']);
}

import type { Express, Request, RequestHandler } from 'express';
import { z } from 'zod';
import { answerBadInput, mountControls } from '../shared/controls.ts';
import { exchange, type Reply } from '../shared/exchange.ts';
import { FaultScript } from '../shared/faults.ts';
import { bodyText, fitsRequest } from '../shared/match.ts';
import { requestSection } from '../shared/page.ts';
import { RequestLog } from '../shared/request-log.ts';
import { createApiApp, queryOf, readText, type ApiRequest } from '../shared/serve.ts';
import { bubbleFault, type BubbleFault, type BubbleFaultInput, type Operation } from './faults.ts';
import { compareBy, isKnown, meets, Things } from './things.ts';

/** What a Bubble simulator remembers. */
export function createBubbleStores(now: () => number = Date.now) {
  return {
    now,
    things: new Things(now),
    faults: new FaultScript<BubbleFault, BubbleFaultInput>(bubbleFault, now),
    requests: new RequestLog<ApiRequest>(),
  };
}

export type BubbleStores = ReturnType<typeof createBubbleStores>;

/** Things of one search, and of one bulk request. */
const MOST_RESULTS = 100;
const MOST_LINES = 1_000;

/**
 * Bubble's Data API, of the live app and of its development version. Every type exists and takes every field; any token is
 * let in. It never listens.
 */
export function createBubbleApp(stores: BubbleStores): Express {
  const { things } = stores;
  const app = createApiApp();
  mountControls(app, { ...stores, section: () => describeBubble(stores) });
  app.use(readText);

  const serve =
    (on: Operation, act: (request: Request) => Reply): RequestHandler =>
    (request, response) =>
      exchange<BubbleFault, Pick<ApiRequest, 'query'>>(stores, {
        request,
        response,
        refusal: request.get('Authorization')?.startsWith('Bearer ') ? undefined : unauthorized(),
        fits: (fault) => (fault.on === undefined || fault.on === on) && fitsRequest(fault.match, request),
        refuse: ({ status }) => refuse(status, 'ERROR', `Scripted fault (${status})`),
        act: (fault) => (fault?.kind === 'partial' ? halfDone(on, request, act) : act(request)),
        about: () => ({ query: queryOf(request) }),
      });

  for (const root of ['/api/1.1/obj/:type', '/version-test/api/1.1/obj/:type']) {
    app.get(
      root,
      serve('search', (request) => search(things, request)),
    );
    app.post(
      root,
      serve('create', (request) => {
        const fields = readFields(bodyText(request));
        if (!fields) return refuse(400, 'ERROR', 'Could not parse body as JSON');
        return { status: 201, body: { status: 'success', id: things.add(typeOf(request), fields) } };
      }),
    );
    app.post(
      `${root}/bulk`,
      serve('bulk', (request) => bulk(things, request, () => true)),
    );
    app.get(
      `${root}/:id`,
      serve('read', (request) => {
        const thing = things.find(typeOf(request), idOf(request));
        return thing ? { status: 200, body: { response: thing } } : missing(request);
      }),
    );
    app.patch(
      `${root}/:id`,
      serve('update', (request) => {
        const fields = readFields(bodyText(request));
        if (!fields) return refuse(400, 'ERROR', 'Could not parse body as JSON');
        return things.change(typeOf(request), idOf(request), fields) ? { status: 204 } : missing(request);
      }),
    );
    app.delete(
      `${root}/:id`,
      serve('delete', (request) =>
        things.remove(typeOf(request), idOf(request)) ? { status: 204 } : missing(request),
      ),
    );
  }
  app.use((_request, response) => {
    const { status, body } = refuse(404, 'NOT_FOUND', 'The requested resource was not found');
    response.status(status).json(body);
  });
  app.use(answerBadInput);
  return app;

  function halfDone(on: Operation, request: Request, act: (request: Request) => Reply): Reply {
    if (on === 'bulk') return bulk(things, request, (line) => line % 2 === 0);
    act(request);
    return { status: 200, body: '{"response":{"res', headers: { 'Content-Type': 'application/json' } };
  }
}

function typeOf(request: Request): string {
  return String(request.params.type);
}

function idOf(request: Request): string {
  return String(request.params.id);
}

const fieldsOf = z.record(z.string(), z.unknown());

function readFields(text: string): Record<string, unknown> | undefined {
  try {
    return fieldsOf.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

const searchQuery = z.object({
  constraints: z
    .string()
    .default('[]')
    .transform((text): unknown => JSON.parse(text))
    .pipe(z.array(z.object({ key: z.string(), constraint_type: z.string(), value: z.unknown().optional() }))),
  cursor: z.coerce.number().int().min(0).default(0),
  limit: z.coerce.number().int().min(1).default(MOST_RESULTS),
  sort_field: z.string().optional(),
  descending: z.enum(['true', 'false']).default('false'),
  exclude_remaining: z.enum(['true', 'false']).default('false'),
});

function search(things: Things, request: Request): Reply {
  let query: z.output<typeof searchQuery>;
  try {
    query = searchQuery.parse(queryOf(request));
  } catch {
    return refuse(400, 'ERROR', 'Could not parse the query of the search');
  }
  const { constraints, cursor, limit, sort_field: field, descending } = query;
  const unknown = constraints.find((constraint) => !isKnown(constraint));
  if (unknown) {
    const { constraint_type: kind, key } = unknown;
    const message = `Constraint type not found ${kind} for field ${key} and type ${typeOf(request)}`;
    return refuse(404, 'NOT_FOUND', message);
  }
  const found = things.all(typeOf(request)).filter((thing) => meets(thing, constraints));
  if (field !== undefined) found.sort(compareBy(field));
  if (descending === 'true') found.reverse();
  const results = found.slice(cursor, cursor + Math.min(limit, MOST_RESULTS));
  const rest =
    query.exclude_remaining === 'true' ? {} : { remaining: Math.max(found.length - cursor - results.length, 0) };
  return { status: 200, body: { response: { cursor, results, count: results.length, ...rest } } };
}

/** One JSON object a line, and one line of the answer for each. */
function bulk(things: Things, request: Request, succeeds: (line: number) => boolean): Reply {
  const lines = bodyText(request)
    .split('\n')
    .filter((line) => line.trim() !== '');
  if (lines.length > MOST_LINES) return refuse(400, 'ERROR', `At most ${MOST_LINES} things may be created at once`);
  const answers = lines.map((line, number) => {
    const fields = readFields(line);
    if (!fields) return { status: 'error', message: `Could not parse as JSON: ${line}` };
    if (!succeeds(number)) return { status: 'error', message: 'The operation did not finish in time' };
    return { status: 'success', id: things.add(typeOf(request), fields) };
  });
  const body = answers.map((answer) => JSON.stringify(answer)).join('\n');
  return { status: 200, body, headers: { 'Content-Type': 'text/plain' } };
}

function refuse(statusCode: number, status: string, message: string): Reply {
  return { status: statusCode, body: { statusCode, body: { status, message } } };
}

function missing(request: Request): Reply {
  const message = `Missing object of type ${typeOf(request)}: object with id ${idOf(request)} does not exist`;
  return refuse(404, 'MISSING_DATA', message);
}

function unauthorized(): Reply {
  const translation = 'You do not have permission to do this';
  return { status: 401, body: { error_class: 'Unauthorized', args: {}, message: null, translation } };
}

export function describeBubble({ things, requests, faults }: BubbleStores) {
  const counts = things.types().map((type) => `${things.all(type).length} of type ${type}`);
  return requestSection('Bubble', requests.all(), faults.all(), counts.length > 0 ? counts : ['no things yet']);
}

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import express, { type ErrorRequestHandler, type Express, type Request, type Response } from 'express';
import { z } from 'zod';
import { FaultScript, faultSchema, type Fault } from './faults.ts';
import {
  describe,
  describeNew,
  findRefusal,
  MessageStore,
  statusOf,
  type MessageFilter,
  type Refusal,
  type StoredMessage,
} from './messages.ts';
import { renderPage } from './page.ts';
import { RequestLog } from './request-log.ts';

export interface TwilioAppOptions {
  /** User name (`AC…` or `SK…`) → password. By default any such name with any password is let in. */
  credentials?: Readonly<Record<string, string>>;
  messages?: MessageStore;
  faults?: FaultScript;
  requests?: RequestLog;
}

/** What the answer to a request comes to; null means the connection is reset instead. */
type Answer = { status: number; body: unknown; code?: number; headers?: Record<string, string> } | null;

const API = '/2010-04-01/Accounts/:accountSid';

/**
 * The Messages resource of Twilio's REST API, with scripted faults and a page that shows what was sent. It never
 * listens. Differences from the real service are listed in the README.
 */
export function createTwilioApp(options: TwilioAppOptions = {}): Express {
  const {
    credentials,
    messages = new MessageStore(),
    faults = new FaultScript(),
    requests = new RequestLog(),
  } = options;
  const app = express().disable('x-powered-by').disable('etag');
  app.get('/healthz', (_request, response) => void response.json({ status: 'ok' }));
  mountControls(app, { messages, faults, requests });

  app.use('/2010-04-01', express.urlencoded({ extended: false }), (_request, response, next) => {
    response.set('Twilio-Request-Id', `RQ${randomBytes(16).toString('hex')}`);
    next();
  });

  app.post(`${API}/Messages.json`, async (request, response) => {
    const { accountSid } = accountPath.parse(request.params);
    const form = messageForm.parse(request.body ?? {});
    let stored: StoredMessage | undefined;
    const send = (): Answer => {
      const refused = findRefusal(form);
      if (refused) return refuse(refused);
      stored = messages.add(accountSid, form);
      return { status: 201, body: describeNew(stored) };
    };
    const fault = await answer(request, response, 'send', form.To, send);
    log(request, response, { to: form.To, sid: stored?.sid, fault });
  });

  app.get(`${API}/Messages.json`, async (request, response) => {
    const { accountSid } = accountPath.parse(request.params);
    const query = listQuery.safeParse(request.query);
    const list = (): Answer =>
      query.success
        ? { status: 200, body: describePage(messages, accountSid, query.data) }
        : refuse({ status: 400, code: 20001, message: `Invalid ${query.error.issues[0]?.path.join('.')} value.` });
    const fault = await answer(request, response, 'look-up', query.data?.To, list);
    log(request, response, { to: query.data?.To, fault });
  });

  app.get(`${API}/Messages/:sid.json`, async (request, response) => {
    const { accountSid, sid } = messagePath.parse(request.params);
    const message = messages.find(accountSid, sid);
    const show = (): Answer => (message ? { status: 200, body: describe(message) } : refuse(notFound(request)));
    const fault = await answer(request, response, 'look-up', message?.to, show);
    log(request, response, { to: message?.to, fault });
  });

  app.use('/2010-04-01', (request, response) => give(response, refuse(notFound(request))));
  app.use(answerBadInput);
  return app;

  /** Credentials first, then a scripted fault, then the real answer. Returns the fault's kind. */
  async function answer(
    request: Request,
    response: Response,
    on: Fault['on'],
    to: string | undefined,
    act: () => Answer,
  ): Promise<string | undefined> {
    if (!isAuthorized(request, credentials)) {
      give(response, refuse({ status: 401, code: 20003, message: 'Authenticate' }));
      return undefined;
    }
    const fault = faults.take(on, to);
    give(response, fault ? await misbehave(fault, act) : act());
    return fault?.kind;
  }

  function log(
    request: Request,
    response: Response,
    about: { to?: string | undefined; sid?: string | undefined; fault: string | undefined },
  ) {
    const dropped = !response.headersSent;
    requests.add({
      at: new Date().toISOString(),
      method: request.method,
      path: request.path,
      to: about.to ?? null,
      status: dropped ? null : response.statusCode,
      code: z.number().nullable().catch(null).parse(response.locals.code),
      sid: about.sid ?? null,
      fault: about.fault ?? null,
    });
  }
}

const accountPath = z.object({ accountSid: z.string() });
const messagePath = accountPath.extend({ sid: z.string() });

/** Repeated fields are kept only where Twilio takes several. */
const field = z.union([z.string(), z.array(z.string()).transform((values) => values.at(-1))]).optional();
const messageForm = z.object({
  To: field,
  From: field,
  MessagingServiceSid: field,
  Body: field,
  MediaUrl: z.union([z.string(), z.array(z.string())]).optional(),
});

/** Dates come as `YYYY-MM-DD` or as an instant, of which the day alone counts. */
const day = z
  .union([z.iso.date(), z.iso.datetime({ offset: true })])
  .transform((value) => new Date(value).toISOString().slice(0, 'YYYY-MM-DD'.length))
  .optional();

const MAX_PAGE_SIZE = 1_000;

const listQuery = z.object({
  To: z.string().optional(),
  From: z.string().optional(),
  DateSent: day,
  'DateSent<': day,
  'DateSent>': day,
  PageSize: z.coerce
    .number()
    .int()
    .min(1)
    .default(50)
    .transform((size) => Math.min(size, MAX_PAGE_SIZE)),
  Page: z.coerce.number().int().min(0).default(0),
  PageToken: z
    .string()
    .regex(/^PA/)
    .transform((token) => token.slice('PA'.length))
    .optional(),
});

function describePage(store: MessageStore, accountSid: string, query: z.output<typeof listQuery>) {
  const filter: MessageFilter = {
    accountSid,
    to: query.To,
    from: query.From,
    sentOn: query.DateSent,
    sentOnOrBefore: query['DateSent<'],
    sentOnOrAfter: query['DateSent>'],
  };
  const { messages, hasMore } = store.page(filter, query.PageSize, query.PageToken);
  const last = messages.at(-1);
  const uri = (page: number, token?: string) => {
    const parameters = new URLSearchParams();
    for (const name of ['To', 'From', 'DateSent', 'DateSent<', 'DateSent>'] as const) {
      const value = query[name];
      if (value !== undefined) parameters.set(name, value);
    }
    parameters.set('PageSize', String(query.PageSize));
    parameters.set('Page', String(page));
    if (token !== undefined) parameters.set('PageToken', `PA${token}`);
    return `/2010-04-01/Accounts/${accountSid}/Messages.json?${parameters.toString()}`;
  };
  return {
    first_page_uri: uri(0),
    next_page_uri: hasMore && last ? uri(query.Page + 1, last.sid) : null,
    previous_page_uri: null,
    uri: uri(query.Page, query.PageToken),
    page: query.Page,
    page_size: query.PageSize,
    start: query.Page * query.PageSize,
    end: query.Page * query.PageSize + Math.max(messages.length - 1, 0),
    messages: messages.map(describe),
  };
}

/** HTTP Basic. An account may speak only for itself; an API key (`SK…`) for any account. */
function isAuthorized(request: Request, credentials: TwilioAppOptions['credentials']): boolean {
  const [scheme, encoded = ''] = (request.get('authorization') ?? '').split(' ');
  const [, name = '', password = ''] = /^([^:]*):(.*)$/s.exec(Buffer.from(encoded, 'base64').toString()) ?? [];
  if (scheme?.toLowerCase() !== 'basic' || !/^(AC|SK)/.test(name) || password === '') return false;
  if (name.startsWith('AC') && name !== request.params.accountSid) return false;
  return credentials === undefined || credentials[name] === password;
}

/** Which code Twilio sends along with a status. */
const CODE_OF_STATUS: Record<number, number> = { 401: 20003, 404: 20404, 429: 20429, 500: 20500, 503: 20503 };

async function misbehave(fault: Fault, act: () => Answer): Promise<Answer> {
  switch (fault.kind) {
    case 'status': {
      const { status, code = CODE_OF_STATUS[status] ?? status, retryAfter } = fault;
      const refused = refuse({ status, code, message: `Scripted fault (${status})` });
      return retryAfter === undefined ? refused : { ...refused, headers: { 'Retry-After': String(retryAfter) } };
    }
    case 'delay': {
      // Acted on at once and answered late: whoever gives up waiting cannot know that the message is stored.
      const answer = act();
      // Unreferenced: an answer nobody waits for does not keep a test run alive.
      await sleep(fault.delayMs, undefined, { ref: false });
      return answer;
    }
    case 'drop-before':
      return null;
    case 'drop-after':
      act();
      return null;
    case 'html':
      return { status: 502, body: '<html><body><h1>502 Bad Gateway</h1></body></html>' };
  }
}

function notFound(request: Request): Refusal {
  return { status: 404, code: 20404, message: `The requested resource ${request.originalUrl} was not found` };
}

function refuse({ status, code, message }: Refusal): NonNullable<Answer> {
  return { status, code, body: { code, message, more_info: `https://www.twilio.com/docs/errors/${code}`, status } };
}

function give(response: Response, answer: Answer): void {
  if (answer === null) {
    response.socket?.resetAndDestroy();
    return;
  }
  response.locals.code = answer.code;
  response.status(answer.status).set(answer.headers ?? {});
  if (typeof answer.body === 'string') response.type('html').send(answer.body);
  else response.json(answer.body);
}

interface Stores {
  messages: MessageStore;
  faults: FaultScript;
  requests: RequestLog;
}

/** What tests and people use: the page, what was sent, what was asked, and the faults to come. */
function mountControls(app: Express, { messages, faults, requests }: Stores): void {
  app.get('/', (_request, response) => {
    const refused = requests.all().filter(({ method, sid }) => method === 'POST' && sid === null).length;
    const page = renderPage(messages.all(), { messages: messages.size, refused, faults: faults.all().length });
    response.set('Content-Security-Policy', "default-src 'none'; style-src 'unsafe-inline'").type('html').send(page);
  });

  app.get('/messages', (_request, response) => void response.json(messages.all().map(describeSent)));
  app.delete('/messages', (_request, response) => {
    messages.clear();
    response.status(204).end();
  });

  app.get('/requests', (_request, response) => void response.json(requests.all()));
  app.delete('/requests', (_request, response) => {
    requests.clear();
    response.status(204).end();
  });

  app.get('/faults', (_request, response) => void response.json(faults.all()));
  app.post('/faults', express.json(), (request, response) => {
    const fault = faultSchema.parse(request.body);
    faults.add(fault);
    response.status(201).json(fault);
  });
  app.delete('/faults', (_request, response) => {
    faults.clear();
    response.status(204).end();
  });
}

/** A message in the words of whoever checks what was sent. */
export interface SentMessage {
  to: string;
  body: string;
  sid: string;
  /** ISO 8601, milliseconds. */
  received_at: string;
  status: string;
  from: string | null;
  messaging_service_sid: string | null;
}

export function describeSent(message: StoredMessage): SentMessage {
  return {
    to: message.to,
    body: message.body,
    sid: message.sid,
    received_at: message.receivedAt.toISOString(),
    status: statusOf(message),
    from: message.from,
    messaging_service_sid: message.messagingServiceSid,
  };
}

/** The four parameters make it an error handler to express. */
const answerBadInput: ErrorRequestHandler = (error: unknown, _request, response, next) => {
  if (response.headersSent) next(error);
  else if (error instanceof z.ZodError) response.status(400).json({ error: z.prettifyError(error) });
  else response.status(400).json({ error: error instanceof Error ? error.message : String(error) });
};

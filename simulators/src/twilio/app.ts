import { randomBytes } from 'node:crypto';
import express, { type Express, type Request, type Response } from 'express';
import { z } from 'zod';
import { answerBadInput, mountControls } from '../shared/controls.ts';
import { exchange, type Reply } from '../shared/exchange.ts';
import type { Fault } from './faults.ts';
import {
  describe,
  describeNew,
  findRefusal,
  statusOf,
  type MessageFilter,
  type MessageStore,
  type Refusal,
  type StoredMessage,
} from './messages.ts';
import { describeSection } from './page.ts';
import { createTwilioStores } from './stores.ts';

export interface TwilioAppOptions {
  /** User name (`AC…` or `SK…`) → password. By default any such name with any password is let in. */
  credentials?: Readonly<Record<string, string>>;
}

const API = '/2010-04-01/Accounts/:accountSid';

/**
 * The Messages resource of Twilio's REST API, with scripted faults and a page that shows what was sent. It never
 * listens. Differences from the real service are listed in the README.
 */
export function createTwilioApp(options: TwilioAppOptions = {}, stores = createTwilioStores()): Express {
  const { messages } = stores;
  const app = express().disable('x-powered-by').disable('etag');
  mountControls(app, { ...stores, section: () => describeSection(stores) });
  mountMessages(app, messages);

  app.use('/2010-04-01', express.urlencoded({ extended: false }), (_request, response, next) => {
    response.set('Twilio-Request-Id', `RQ${randomBytes(16).toString('hex')}`);
    next();
  });

  app.post(`${API}/Messages.json`, (request, response) => {
    const { accountSid } = accountPath.parse(request.params);
    const form = messageForm.parse(request.body ?? {});
    let stored: StoredMessage | undefined;
    const send = (): Reply => {
      const refused = findRefusal(form);
      if (refused) return refuse(refused);
      stored = messages.add(accountSid, form);
      return { status: 201, body: describeNew(stored) };
    };
    return answer(request, response, { on: 'send', to: form.To, act: send, sid: () => stored?.sid });
  });

  app.get(`${API}/Messages.json`, (request, response) => {
    const { accountSid } = accountPath.parse(request.params);
    const query = listQuery.safeParse(request.query);
    const list = (): Reply =>
      query.success
        ? { status: 200, body: describePage(messages, accountSid, query.data) }
        : refuse({ status: 400, code: 20001, message: `Invalid ${query.error.issues[0]?.path.join('.')} value.` });
    return answer(request, response, { on: 'look-up', to: query.data?.To, act: list });
  });

  app.get(`${API}/Messages/:sid.json`, (request, response) => {
    const { accountSid, sid } = messagePath.parse(request.params);
    const message = messages.find(accountSid, sid);
    const show = (): Reply => (message ? { status: 200, body: describe(message) } : refuse(notFound(request)));
    return answer(request, response, { on: 'look-up', to: message?.to, act: show });
  });

  app.use('/2010-04-01', (request, response) => {
    const { status, body } = refuse(notFound(request));
    response.status(status).json(body);
  });
  app.use(answerBadInput);
  return app;

  function answer(request: Request, response: Response, { on, to, act, sid }: Operation): Promise<void> {
    return exchange(
      { ...stores, now: Date.now },
      {
        request,
        response,
        refusal: isAuthorized(request, options.credentials)
          ? undefined
          : refuse({ status: 401, code: 20003, message: 'Authenticate' }),
        fits: (fault) => fault.on === on && (fault.to === undefined || fault.to === to),
        refuse: ({ status, code = CODE_OF_STATUS[status] ?? status }) =>
          refuse({ status, code, message: `Scripted fault (${status})` }),
        act,
        about: (reply) => ({ to: to ?? null, code: errorCode.parse(reply?.body), sid: sid?.() ?? null }),
      },
    );
  }
}

interface Operation {
  on: Fault['on'];
  to: string | undefined;
  act: () => Reply;
  sid?: () => string | undefined;
}

/** Of an error body; any other body has none. */
const errorCode = z
  .object({ code: z.number() })
  .transform(({ code }) => code)
  .nullable()
  .catch(null);

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

function notFound(request: Request): Refusal {
  return { status: 404, code: 20404, message: `The requested resource ${request.originalUrl} was not found` };
}

function refuse({ status, code, message }: Refusal): Reply {
  return { status, body: { code, message, more_info: `https://www.twilio.com/docs/errors/${code}`, status } };
}

/** What tests and people use besides the page, the requests and the faults. */
function mountMessages(app: Express, messages: MessageStore): void {
  app.get('/messages', (_request, response) => void response.json(messages.all().map(describeSent)));
  app.delete('/messages', (_request, response) => {
    messages.clear();
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

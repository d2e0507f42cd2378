import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { inspect } from 'node:util';
import {
  EffectRejectedError,
  OutboxError,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
} from '@outbox/core';
import { startTwilioSimulator, type FaultInput, type TwilioSimulator } from '@outbox/simulators';
import { createTwilioSmsClient, type SmsClient, type TwilioSettings } from './sms-client.ts';

const TO = '+15558675310';
const TEXT = { to: TO, body: 'Reminder: "Summer tour & more" is still waiting. ✓' };
const TOKEN = 'a-token-nobody-may-see';
const SENDER = '+15005550006';
const NO_ABORT = new AbortController().signal;

let twilio: TwilioSimulator;
const servers: Server[] = [];

beforeEach(async () => {
  twilio = await startTwilioSimulator();
});
afterEach(async () => {
  await twilio.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

function createClient(settings: Partial<TwilioSettings> = {}): SmsClient {
  const account = { accountSid: `AC${'1'.repeat(32)}`, authToken: TOKEN, from: SENDER };
  return createTwilioSmsClient({ ...account, baseUrl: twilio.url, timeoutMs: 2 * SECOND, ...settings });
}

/** A provider that answers whatever `answer` does; returns its URL. */
async function startServer(answer: RequestListener): Promise<string> {
  const server = createServer(answer);
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** What the promise rejects with, which no credential, number or text may be part of. */
async function failureOf(work: Promise<unknown>, secrets = [TO, TOKEN, TEXT.body]): Promise<OutboxError> {
  const error = await work.then(
    (value) => new Error(`resolved with ${String(value)}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof OutboxError)) throw error;
  const shown = inspect(error, { depth: 10, showHidden: true });
  for (const secret of secrets) expect(shown).not.toContain(secret);
  return error;
}

async function ambiguityOf(work: Promise<unknown>): Promise<boolean> {
  const error = await failureOf(work);
  if (!(error instanceof ProviderUnavailableError)) throw error;
  return error.ambiguous;
}

describe('send', () => {
  test('resolves with the reference of the message the provider stored', async () => {
    const reference = await createClient().send(TEXT, NO_ABORT);
    expect(twilio.messages()).toMatchObject([{ ...TEXT, sid: reference, from: SENDER, messaging_service_sid: null }]);
  });

  test('names the Messaging Service instead of a number when it has one', async () => {
    const messagingServiceSid = `MG${'2'.repeat(32)}`;
    await createClient({ messagingServiceSid, from: undefined }).send(TEXT, NO_ABORT);
    expect(twilio.messages()).toMatchObject([{ from: null, messaging_service_sid: messagingServiceSid }]);
  });

  test('an edge or region in the environment does not lead away from the base URL', async () => {
    process.env.TWILIO_REGION = 'ie1';
    try {
      await createClient().send(TEXT, NO_ABORT);
    } finally {
      delete process.env.TWILIO_REGION;
    }
    expect(twilio.messages()).toHaveLength(1);
  });

  test.each([
    ['invalid number', '+15005550001', 'twilio_21211'],
    ['unreachable', '+15005550002', 'twilio_21612'],
    ['opted out', '+15005550004', 'twilio_21610'],
    ['not a mobile number', '+15005550009', 'twilio_21614'],
  ])('a recipient who cannot be texted is rejected: %s', async (_title, to, code) => {
    const error = await failureOf(createClient().send({ to, body: TEXT.body }, NO_ABORT), [to, TOKEN]);
    expect(error).toBeInstanceOf(EffectRejectedError);
    expect(error.code).toBe(code);
  });

  test.each([
    ['region not enabled', { to: '+15005550003' }, {}, 'twilio_21408'],
    ['malformed sender', {}, { from: '+15005550001' }, 'twilio_21212'],
    ['sender not ours', {}, { from: '+15005550007' }, 'twilio_21606'],
    ['no text', { body: '' }, {}, 'twilio_21602'],
    ['text too long', { body: 'x'.repeat(1_601) }, {}, 'twilio_21617'],
  ])('a wrong setting or request is permanent: %s', async (_title, message, settings, code) => {
    const error = await failureOf(createClient(settings).send({ ...TEXT, ...message }, NO_ABORT));
    expect(error).toBeInstanceOf(PermanentError);
    expect(error.code).toBe(code);
  });

  test.each([
    ['wrong token', { status: 401, code: 20003 }, 'twilio_20003'],
    ['suspended account', { status: 403, code: 20005 }, 'twilio_20005'],
    ['trial limit', { status: 400, code: 21608 }, 'twilio_21608'],
    ['bad schedule', { status: 400, code: 35114 }, 'twilio_35114'],
    ['a code nobody listed', { status: 400, code: 29999 }, 'twilio_29999'],
  ])('a refusal that is not about the recipient is permanent: %s', async (_title, answer, code) => {
    twilio.fault({ kind: 'status', ...answer });
    const error = await failureOf(createClient().send(TEXT, NO_ABORT));
    expect(error).toBeInstanceOf(PermanentError);
    expect(error.code).toBe(code);
  });

  test('a refusal without a Twilio body is permanent under its status', async () => {
    const baseUrl = await startServer((_request, response) => void response.writeHead(403).end('<html>no</html>'));
    const error = await failureOf(createClient({ baseUrl }).send(TEXT, NO_ABORT));
    expect(error).toBeInstanceOf(PermanentError);
    expect(error.code).toBe('twilio_403');
  });

  test('an error names the code and the request for whoever asks Twilio', async () => {
    const to = '+15005550004';
    const error = await failureOf(createClient().send({ to, body: TEXT.body }, NO_ABORT), [to]);
    expect(error.message).toMatch(/^Twilio answered 400 with code 21610 \(request RQ[0-9a-f]{32}\)\.$/);
  });

  test.each([
    ['three seconds', 3, 3_000],
    ['nothing', undefined, 1_000],
    ['zero', 0, 1_000],
    ['two hours', 7_200, 900_000],
    ['a past date', 'Thu, 24 Aug 2023 05:01:45 GMT', 1_000],
    ['nonsense', 'soon', 1_000],
  ])('too many requests: Retry-After of %s', async (_title, retryAfter, expected) => {
    twilio.fault({ kind: 'status', status: 429, code: 20429, retryAfter });
    const error = await failureOf(createClient().send(TEXT, NO_ABORT));
    expect(error).toBeInstanceOf(RateLimitedError);
    expect(error).toMatchObject({ retryAfterMs: expected });
    expect(twilio.requests()).toHaveLength(1); // the library must not retry by itself
  });

  test('too many requests: Retry-After as a date', async () => {
    const retryAfter = new Date(Date.now() + 60 * SECOND).toUTCString();
    twilio.fault({ kind: 'status', status: 429, retryAfter });
    const error = await failureOf(createClient().send(TEXT, NO_ABORT));
    if (!(error instanceof RateLimitedError)) throw error;
    expect(error.retryAfterMs).toBeGreaterThan(50 * SECOND);
    expect(error.retryAfterMs).toBeLessThanOrEqual(60 * SECOND);
  });

  test('too many requests: without a Twilio body', async () => {
    const baseUrl = await startServer((_request, response) => void response.writeHead(429).end());
    expect(await failureOf(createClient({ baseUrl }).send(TEXT, NO_ABORT))).toBeInstanceOf(RateLimitedError);
  });

  test('a full sender queue waits a minute', async () => {
    const error = await failureOf(createClient({ from: '+15005550008' }).send(TEXT, NO_ABORT));
    expect(error).toBeInstanceOf(RateLimitedError);
    expect(error).toMatchObject({ retryAfterMs: 60 * SECOND });
  });

  test.each<[string, FaultInput]>([
    ['a 500', { kind: 'status', status: 500 }],
    ['a 503', { kind: 'status', status: 503 }],
    ['a 408', { kind: 'status', status: 408 }],
    ['a gateway that answers HTML', { kind: 'html' }],
    ['a connection reset before the message was stored', { kind: 'drop-before' }],
    ['a connection reset after the message was stored', { kind: 'drop-after' }],
  ])('is ambiguous after %s', async (_title, fault) => {
    twilio.fault(fault);
    expect(await ambiguityOf(createClient().send(TEXT, NO_ABORT))).toBe(true);
  });

  test.each<[string, RequestListener]>([
    ['HTML', (_request, response) => void response.writeHead(201).end('<html></html>')],
    ['half a JSON', (_request, response) => void response.writeHead(201).end('{"sid": "SM')],
    ['no reference', (_request, response) => void response.writeHead(201).end('{"status": "queued"}')],
    ['a redirection', (_request, response) => void response.writeHead(302, { location: '/login' }).end()],
  ])('is ambiguous after an answer of %s', async (_title, answer) => {
    const baseUrl = await startServer(answer);
    expect(await ambiguityOf(createClient({ baseUrl }).send(TEXT, NO_ABORT))).toBe(true);
  });

  test('is ambiguous after a time-out, and the message may well be there', async () => {
    twilio.fault({ kind: 'delay', delayMs: 150 });
    const error = await failureOf(createClient({ timeoutMs: 50 }).send(TEXT, NO_ABORT));
    expect(error).toMatchObject({ ambiguous: true, message: 'Twilio could not be asked: no answer within 50 ms.' });
    expect(twilio.messages()).toHaveLength(1);
  });

  test('an answer that trickles in does not hold the call beyond its deadline', async () => {
    const baseUrl = await startServer((_request, response) => {
      response.writeHead(201, { 'content-type': 'application/json' });
      const trickle = setInterval(() => response.write(' '), 10);
      response.on('close', () => clearInterval(trickle));
    });
    expect(await ambiguityOf(createClient({ baseUrl, timeoutMs: 80 }).send(TEXT, NO_ABORT))).toBe(true);
  });

  test('is ambiguous when aborted under way', async () => {
    const controller = new AbortController();
    const arrived = startServer(() => controller.abort());
    const sending = createClient({ baseUrl: await arrived }).send(TEXT, controller.signal);
    const error = await failureOf(sending);
    expect(error).toMatchObject({ ambiguous: true, message: expect.stringContaining('aborted') as string });
  });

  test('an abort of one call leaves another one alone', async () => {
    twilio.fault({ kind: 'delay', delayMs: 100, count: 2 });
    const controller = new AbortController();
    const client = createClient();
    const [aborted, other] = [client.send(TEXT, controller.signal), client.send(TEXT, NO_ABORT)];
    controller.abort();
    expect(await failureOf(aborted)).toBeInstanceOf(ProviderUnavailableError);
    expect(await other).toMatch(/^SM/);
  });

  test('sends nothing, for certain, when aborted before', async () => {
    expect(await ambiguityOf(createClient().send(TEXT, AbortSignal.abort()))).toBe(false);
    expect(twilio.requests()).toEqual([]);
  });

  test('nothing was sent, for certain, when the connection is refused', async () => {
    const gone = await startTwilioSimulator();
    await gone.close();
    expect(await ambiguityOf(createClient({ baseUrl: gone.url }).send(TEXT, NO_ABORT))).toBe(false);
  });

  test('nothing was sent, for certain, when the name does not resolve', async () => {
    const baseUrl = 'http://twilio.invalid:4010';
    expect(await ambiguityOf(createClient({ baseUrl }).send(TEXT, NO_ABORT))).toBe(false);
  });
});

describe('find', () => {
  test('finds what arrived although the answer was lost', async () => {
    const startedAt = new Date();
    twilio.fault({ kind: 'drop-after' });
    expect(await ambiguityOf(createClient().send(TEXT, NO_ABORT))).toBe(true);
    expect(await createClient().find(TEXT, startedAt, NO_ABORT)).toBe(twilio.messages()[0]?.sid);
  });

  test('finds nothing when the connection broke before the message was stored', async () => {
    twilio.fault({ kind: 'drop-before' });
    expect(await ambiguityOf(createClient().send(TEXT, NO_ABORT))).toBe(true);
    expect(await createClient().find(TEXT, new Date(0), NO_ABORT)).toBeUndefined();
  });

  test('ignores other texts and other recipients', async () => {
    const client = createClient();
    await client.send({ to: TO, body: `${TEXT.body}!` }, NO_ABORT);
    await client.send({ to: '+15558675311', body: TEXT.body }, NO_ABORT);
    expect(await client.find(TEXT, new Date(0), NO_ABORT)).toBeUndefined();
  });

  test('counts a message that failed on its way: it was received', async () => {
    const message = { to: '+15005553003', body: TEXT.body };
    const reference = await createClient().send(message, NO_ABORT);
    expect(twilio.messages()).toMatchObject([{ status: 'undelivered' }]);
    expect(await createClient().find(message, new Date(0), NO_ABORT)).toBe(reference);
  });

  test('recognises a text behind the words that trial accounts put before it', async () => {
    const reference = await createClient().send(
      { to: TO, body: `Sent from your Twilio trial account - ${TEXT.body}` },
      NO_ABORT,
    );
    expect(await createClient().find(TEXT, new Date(0), NO_ABORT)).toBe(reference);
  });

  test('finds a message that has not left yet', async () => {
    const { baseUrl, sid } = await startListing([{ ageMs: 0, date_sent: null, status: 'accepted' }]);
    expect(await createClient({ baseUrl }).find(TEXT, new Date(), NO_ABORT)).toBe(sid(0));
  });

  test.each([
    ['counts one dated 4 s before, by a clock that is behind', 4, true],
    ['ignores one from 10 s before', 10, false],
  ])('%s', async (_title, secondsBefore, isFound) => {
    const { baseUrl, sid } = await startListing([{ ageMs: secondsBefore * SECOND }]);
    expect(await createClient({ baseUrl }).find(TEXT, new Date(), NO_ABORT)).toBe(isFound ? sid(0) : undefined);
  });

  test('follows the pages to a message behind many others', async () => {
    const client = createClient();
    const reference = await client.send(TEXT, NO_ABORT);
    for (let index = 0; index < 201; index += 1) await client.send({ to: TO, body: `other ${index}` }, NO_ABORT);
    expect(await client.find(TEXT, new Date(0), NO_ABORT)).toBe(reference);
    expect(twilio.requests().filter(({ method }) => method === 'GET')).toHaveLength(2);
  });

  test('reads no further than the first page that is too old', async () => {
    const { baseUrl, requests } = await startListing([{ ageMs: 60 * SECOND }], '/next-page');
    expect(await createClient({ baseUrl }).find(TEXT, new Date(), NO_ABORT)).toBeUndefined();
    expect(requests).toHaveLength(1);
  });

  test.each<[string, FaultInput]>([
    ['a 503', { kind: 'status', status: 503 }],
    ['HTML', { kind: 'html' }],
    ['a reset', { kind: 'drop-after' }],
  ])('is never ambiguous: %s', async (_title, fault) => {
    twilio.fault({ ...fault, on: 'look-up' });
    expect(await ambiguityOf(createClient().find(TEXT, new Date(), NO_ABORT))).toBe(false);
  });

  test('is never ambiguous: a time-out', async () => {
    twilio.fault({ kind: 'delay', delayMs: 150, on: 'look-up' });
    expect(await ambiguityOf(createClient({ timeoutMs: 50 }).find(TEXT, new Date(), NO_ABORT))).toBe(false);
  });

  test('is never ambiguous: an answer that is no list', async () => {
    const baseUrl = await startServer((_request, response) => void response.writeHead(200).end('{"messages": [{}]}'));
    expect(await ambiguityOf(createClient({ baseUrl }).find(TEXT, new Date(), NO_ABORT))).toBe(false);
  });

  test('passes on the wait when too many ask', async () => {
    twilio.fault({ kind: 'status', status: 429, retryAfter: 7, on: 'look-up' });
    expect(await failureOf(createClient().find(TEXT, new Date(), NO_ABORT))).toMatchObject({ retryAfterMs: 7_000 });
  });
});

interface Listed {
  ageMs: number;
  date_sent?: null;
  status?: string;
}

/** A provider with one page of messages of any age, which the simulator cannot make. */
async function startListing(listed: Listed[], nextPage: string | null = null) {
  const requests: string[] = [];
  const sid = (index: number) => `SM${String(index).padStart(32, '0')}`;
  const baseUrl = await startServer((request, response) => {
    requests.push(request.url ?? '');
    const messages = listed.map(({ ageMs, ...rest }, index) => {
      const date = new Date(Date.now() - ageMs).toUTCString().replace('GMT', '+0000');
      return { ...TEXT, sid: sid(index), status: 'sent', date_created: date, date_sent: date, ...rest };
    });
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ messages, next_page_uri: nextPage }));
  });
  return { baseUrl, requests, sid };
}

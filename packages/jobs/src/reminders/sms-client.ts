import { AsyncLocalStorage } from 'node:async_hooks';
import {
  codeOf,
  EffectRejectedError,
  MINUTE,
  NEVER_SENT,
  OutboxError,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  retryAfterMs,
  SECOND,
  TEMPORARY_STATUSES,
} from '@outbox/core';
import twilio from 'twilio';
import RequestClient from 'twilio/lib/base/RequestClient.js';
import { z } from 'zod';

export interface SmsMessage {
  /** E.164, e.g. +15558675310. */
  to: string;
  body: string;
}

/**
 * Sends texts and finds out whether one arrived. Both throw `RateLimitedError`, `PermanentError` (configuration or our
 * mistake) and `ProviderUnavailableError`; `send` also `EffectRejectedError` (this recipient cannot be texted). No error
 * carries a phone number, a text or a credential.
 *
 * An abort ends the waiting, not the sending: once the request has left, the error is `ambiguous` and only `find` can
 * tell. Looking up is never ambiguous.
 */
export interface SmsClient {
  /** Resolves with the provider's reference. Not to be repeated blindly: the provider does not recognise a repetition. */
  send(message: SmsMessage, signal: AbortSignal): Promise<string>;
  /** Reference of a message with this recipient and body that the provider received since `since`, or undefined. */
  find(message: SmsMessage, since: Date, signal: AbortSignal): Promise<string | undefined>;
}

export interface TwilioSettings {
  accountSid: string;
  authToken: string;
  /** Sender, E.164; or let a Messaging Service pick one. Exactly one of the two. */
  from?: string | undefined;
  messagingServiceSid?: string | undefined;
  /** Scheme, host and port instead of Twilio's, e.g. of a simulator. */
  baseUrl?: string | undefined;
  /** Deadline of one HTTP request, connecting included. */
  timeoutMs: number;
}

/** Any client of Twilio's Messages resource. Nothing connects before the first call; calls may run side by side. */
export function createTwilioSmsClient(settings: TwilioSettings): SmsClient {
  const http = new TwilioHttp(settings);
  const client = twilio(settings.accountSid, settings.authToken, { httpClient: http });
  const sender = settings.messagingServiceSid
    ? { messagingServiceSid: settings.messagingServiceSid }
    : { from: settings.from };

  return {
    send: ({ to, body }, signal) =>
      callerSignal.run(signal, async () => {
        const created = await readable('send', async () =>
          createdMessage.parse(await client.messages.create({ ...sender, to, body })),
        );
        return created.sid;
      }),

    find: (message, since, signal) =>
      callerSignal.run(signal, () => readable('look-up', () => findMessage(client, message, since))),
  };
}

/** One page usually holds all that one person was ever sent. */
const PAGE_SIZE = 200;

/**
 * How far Twilio's clock may be behind the one `since` was read from. Synchronised clocks differ by milliseconds; five
 * seconds cover a neglected one. Too little would miss our own message and lead to a second text; too much can only take
 * the same text to the same person, sent by another job seconds before, for this one: no duplicate either way.
 */
const CLOCK_SKEW_MS = 5 * SECOND;

/** Trial accounts put this before every text, and list it so. */
const TRIAL_PREFIX = 'Sent from your Twilio trial account - ';

/**
 * Reads the recipient's messages until a whole page is older than `since`. Twilio's own `DateSent` filter is of no use:
 * it goes by the day, and hides what is not sent yet (`date_sent` is null), which is just what a look-up after a
 * time-out asks for. Twilio lists the newest first without promising the order, hence a whole page.
 *
 * The status does not matter: also a message that failed on its way was received, and sending again is not ours to
 * decide.
 */
async function findMessage(client: twilio.Twilio, { to, body }: SmsMessage, since: Date): Promise<string | undefined> {
  // `date_created` has whole seconds.
  const earliest = Math.floor((since.getTime() - CLOCK_SKEW_MS) / SECOND) * SECOND;
  let page: MessagePage | undefined = await client.messages.page({ to, pageSize: PAGE_SIZE });
  while (page) {
    const listed = page.instances.map((message) => listedMessage.parse(message));
    const recent = listed.filter(({ dateCreated }) => dateCreated.getTime() >= earliest);
    const match = recent.find((message) => message.body === body || message.body === TRIAL_PREFIX + body);
    if (match) return match.sid;
    if (recent.length === 0) return undefined;
    page = await page.nextPage();
  }
  return undefined;
}

type MessagePage = Pick<Awaited<ReturnType<twilio.Twilio['messages']['page']>>, 'instances' | 'nextPage'>;

/** SM, or MM when Twilio makes a multimedia message of a long text. */
const createdMessage = z.object({ sid: z.string().regex(/^(SM|MM)[0-9a-f]{32}$/i) });
const listedMessage = createdMessage.extend({ body: z.string().nullable(), dateCreated: z.date() });

type Purpose = 'send' | 'look-up';

/** An answer that is not what Twilio documents says nothing about whether the message was taken. */
async function readable<T>(purpose: Purpose, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof OutboxError) throw error;
    // The cause is left out, as everywhere here: it may quote the answer, and the answer quotes the number.
    const kind = error instanceof Error ? error.name : typeof error;
    throw new ProviderUnavailableError(`Twilio's answer cannot be read (${kind}).`, { ambiguous: purpose === 'send' });
  }
}

/** The abort signal of the call under way: the library has no parameter to pass it along. */
const callerSignal = new AsyncLocalStorage<AbortSignal>();

/**
 * The library's HTTP client (which never retries by itself), with a hard deadline, our abort signal, another base URL
 * when asked for one, and our errors: the library's carry neither the headers (`Retry-After`, the request id) nor a
 * message without the phone number. Its own `timeout` starts anew with every byte, so a trickling answer would hold it.
 */
class TwilioHttp extends RequestClient {
  readonly #settings: Pick<TwilioSettings, 'baseUrl' | 'timeoutMs'>;
  readonly #requestSignal = new AsyncLocalStorage<AbortSignal>();

  constructor(settings: Pick<TwilioSettings, 'baseUrl' | 'timeoutMs'>) {
    super({ timeout: settings.timeoutMs, autoRetry: false });
    this.#settings = settings;
    this.axios.interceptors.request.use((config) => {
      const signal = this.#requestSignal.getStore();
      if (signal) config.signal = signal;
      return config;
    });
  }

  override async request<Data>(options: RequestClient.RequestOptions<Data>) {
    const purpose: Purpose = options.method === 'post' ? 'send' : 'look-up';
    const response = await this.#withDeadline(purpose, () =>
      super.request<Data>({ ...options, uri: this.#rebase(options.uri) }),
    );
    if (response.statusCode < 200 || response.statusCode >= 300) throw errorOfAnswer(response, purpose);
    return response;
  }

  #rebase(uri: string): string {
    if (this.#settings.baseUrl === undefined) return uri;
    const { pathname, search } = new URL(uri);
    return new URL(pathname + search, this.#settings.baseUrl).href;
  }

  async #withDeadline<T>(purpose: Purpose, work: () => Promise<T>): Promise<T> {
    const caller = callerSignal.getStore();
    if (caller?.aborted) throw new ProviderUnavailableError('Twilio was not called: aborted.', { ambiguous: false });
    const { timeoutMs } = this.#settings;
    const controller = new AbortController();
    const end = (reason: string) => controller.abort(reason);
    const abort = () => end('aborted before it answered');
    const timer = setTimeout(() => end(`no answer within ${timeoutMs} ms`), timeoutMs);
    caller?.addEventListener('abort', abort, { once: true });
    try {
      return await this.#requestSignal.run(controller.signal, work);
    } catch (error) {
      throw errorOfConnection(error, controller.signal, purpose);
    } finally {
      clearTimeout(timer);
      caller?.removeEventListener('abort', abort);
    }
  }
}

function errorOfConnection(error: unknown, signal: AbortSignal, purpose: Purpose): ProviderUnavailableError {
  const reason = signal.aborted ? String(signal.reason) : codeOf(error) || 'connection failed';
  const ambiguous = purpose === 'send' && (signal.aborted || !NEVER_SENT.test(reason));
  return new ProviderUnavailableError(`Twilio could not be asked: ${reason}.`, { ambiguous });
}

/** Twilio error codes that concern this recipient alone: others can still be texted. */
const RECIPIENT_CODES = new Set([
  21211, // invalid number
  21610, // opted out
  21612, // not reachable from this sender
  21614, // not a mobile number
]);

const TOO_MANY_REQUESTS = 20429;

/** The sender's queue (hours long) is full; it drains at about one message a second. */
const SENDER_QUEUE_FULL = 21611;
const SENDER_QUEUE_WAIT_MS = 1 * MINUTE;

const answerBody = z.object({ code: z.int() });
const answerHeaders = z.object({
  'retry-after': z.string().optional(),
  'twilio-request-id': z.string().optional(),
});

interface Answer {
  statusCode: number;
  headers: unknown;
  body: unknown;
}

function errorOfAnswer(response: Answer, purpose: Purpose): OutboxError {
  const { statusCode: status } = response;
  const code = answerBody.safeParse(response.body).data?.code;
  const headers = answerHeaders.safeParse(response.headers).data;
  const requestId = headers?.['twilio-request-id'] ?? 'unknown';
  const message = `Twilio answered ${status} with code ${code ?? 'none'} (request ${requestId}).`;

  if (status === 429 || code === TOO_MANY_REQUESTS) {
    return new RateLimitedError(message, retryAfterMs(headers?.['retry-after']), { scope: 'provider' });
  }
  if (code === SENDER_QUEUE_FULL) return new RateLimitedError(message, SENDER_QUEUE_WAIT_MS, { scope: 'provider' });
  if (status < 400 || status >= 500 || TEMPORARY_STATUSES.has(status)) {
    return new ProviderUnavailableError(message, { ambiguous: purpose === 'send' });
  }
  const reason = `twilio_${code ?? status}`;
  if (code !== undefined && RECIPIENT_CODES.has(code)) return new EffectRejectedError(message, { code: reason });
  return new PermanentError(`${message} Check the TWILIO_ settings.`, { code: reason });
}

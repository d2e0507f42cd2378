import { randomBytes } from 'node:crypto';

/** Older messages are forgotten, so that a benchmark may run for hours. */
export const MESSAGE_LIMIT = 10_000;

/** The form of `POST …/Messages.json`, as far as this simulator looks at it. */
export interface MessageForm {
  To?: string | undefined;
  From?: string | undefined;
  MessagingServiceSid?: string | undefined;
  Body?: string | undefined;
  MediaUrl?: string | string[] | undefined;
}

/** Why Twilio answers a request with an error body. */
export interface Refusal {
  status: number;
  code: number;
  message: string;
}

export interface StoredMessage {
  sid: string;
  accountSid: string;
  messagingServiceSid: string | null;
  from: string | null;
  to: string;
  body: string;
  mediaCount: number;
  receivedAt: Date;
}

const refusal = (code: number, message: string, status = 400): Refusal => ({ status, code, message });

const PHONE_NUMBER = /^\+[1-9]\d{6,14}$/;
const ALPHANUMERIC_SENDER = /^(?=.*[a-z])[a-z0-9 ]{1,11}$/i;
const SERVICE_SID = /^MG[0-9a-f]{32}$/i;

/** Longest body Twilio takes, in characters. */
const MAX_BODY_LENGTH = 1_600;

/** Recipients of Twilio's test credentials, each with the error it stands for. */
const MAGIC_RECIPIENTS = new Map<string, (to: string) => Refusal>([
  ['+15005550001', (to) => refusal(21211, `The 'To' number ${to} is not a valid phone number.`)],
  ['+15005550002', (to) => refusal(21612, `The 'To' phone number ${to} is not currently reachable via SMS.`)],
  ['+15005550003', (to) => refusal(21408, `Permission to send an SMS has not been enabled for the region of ${to}.`)],
  ['+15005550004', () => refusal(21610, 'Attempt to send to unsubscribed recipient')],
  ['+15005550009', (to) => refusal(21614, `'To' number ${to} is not a valid mobile number`)],
]);

/** Senders of Twilio's test credentials. `+15005550006` is fine, like any other well-formed number. */
const MAGIC_SENDERS = new Map<string, (from: string) => Refusal>([
  ['+15005550001', (from) => refusal(21212, `The 'From' number ${from} is not a valid phone number.`)],
  ['+15005550007', (from) => refusal(21606, `The From phone number ${from} is not a valid, SMS-capable number.`)],
  [
    '+15005550008',
    (from) => refusal(21611, `This 'From' number ${from} has exceeded the maximum number of queued messages.`),
  ],
]);

/** Ours: recipients whose message is accepted and fails on its way, with the error code it ends with. */
const LATE_FAILURES: Record<string, number> = {
  '+15005553003': 30003,
  '+15005553005': 30005,
  '+15005553007': 30007,
};

/** What Twilio would refuse about this form, or undefined when it would accept the message. */
export function findRefusal(form: MessageForm): Refusal | undefined {
  return refuseRecipient(form.To) ?? refuseSender(form) ?? refuseContent(form);
}

function refuseRecipient(to: string | undefined): Refusal | undefined {
  if (!to) return refusal(21604, "A 'To' phone number is required.");
  if (!PHONE_NUMBER.test(to)) return refusal(21211, `The 'To' number ${to} is not a valid phone number.`);
  return MAGIC_RECIPIENTS.get(to)?.(to);
}

function refuseSender({ From: from, MessagingServiceSid: service }: MessageForm): Refusal | undefined {
  if (!from && !service) return refusal(21603, "A 'From' phone number is required.");
  if (service && !SERVICE_SID.test(service)) return refusal(21705, 'The Messaging Service Sid is invalid.');
  if (!from) return undefined;
  if (!PHONE_NUMBER.test(from) && !ALPHANUMERIC_SENDER.test(from)) {
    return refusal(
      21212,
      `The 'From' number ${from} is not a valid phone number, shortcode, or alphanumeric sender ID.`,
    );
  }
  return MAGIC_SENDERS.get(from)?.(from);
}

function refuseContent({ Body: body, MediaUrl: media }: MessageForm): Refusal | undefined {
  if (!body && !media) return refusal(21602, 'Message body is required.');
  if (body && body.length > MAX_BODY_LENGTH) {
    return refusal(21617, 'The concatenated message body exceeds the 1600 character limit');
  }
  return undefined;
}

/** Filters and cursor of `GET …/Messages.json`. The dates are whole days (`YYYY-MM-DD`), which is all Twilio promises. */
export interface MessageFilter {
  accountSid: string;
  to?: string | undefined;
  from?: string | undefined;
  sentOn?: string | undefined;
  sentOnOrBefore?: string | undefined;
  sentOnOrAfter?: string | undefined;
}

/** What was accepted, oldest first, in memory. */
export class MessageStore {
  readonly #messages = new Map<string, StoredMessage>();
  /** The same by recipient: a look-up must not become slower with everybody else's messages. */
  readonly #byRecipient = new Map<string, Set<StoredMessage>>();
  readonly #limit: number;

  constructor(limit = MESSAGE_LIMIT) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#messages.size;
  }

  /** Stores a form that `findRefusal` had nothing against. */
  add(accountSid: string, form: MessageForm): StoredMessage {
    const message: StoredMessage = {
      sid: `SM${randomBytes(16).toString('hex')}`,
      accountSid,
      messagingServiceSid: form.MessagingServiceSid || null,
      from: form.From || null,
      to: form.To ?? '',
      body: form.Body ?? '',
      mediaCount: [form.MediaUrl ?? []].flat().length,
      receivedAt: new Date(),
    };
    this.#messages.set(message.sid, message);
    this.#toRecipient(message.to).add(message);
    for (const oldest of this.#messages.values()) {
      if (this.#messages.size <= this.#limit) break;
      this.#forget(oldest);
    }
    return message;
  }

  find(accountSid: string, sid: string): StoredMessage | undefined {
    const message = this.#messages.get(sid);
    return message?.accountSid === accountSid ? message : undefined;
  }

  /** Everything, in the order it was received. */
  all(): StoredMessage[] {
    return [...this.#messages.values()];
  }

  /** Matching messages, newest first; `after` is the sid the page before ended with. */
  page(filter: MessageFilter, size: number, after?: string): { messages: StoredMessage[]; hasMore: boolean } {
    const candidates = filter.to === undefined ? this.all() : [...(this.#byRecipient.get(filter.to) ?? [])];
    const matching = candidates.reverse().filter((message) => matches(message, filter));
    const start = after === undefined ? 0 : matching.findIndex(({ sid }) => sid === after) + 1;
    return { messages: matching.slice(start, start + size), hasMore: matching.length > start + size };
  }

  clear(): void {
    this.#messages.clear();
    this.#byRecipient.clear();
  }

  #toRecipient(to: string): Set<StoredMessage> {
    const known = this.#byRecipient.get(to) ?? new Set();
    this.#byRecipient.set(to, known);
    return known;
  }

  #forget(message: StoredMessage): void {
    this.#messages.delete(message.sid);
    const others = this.#byRecipient.get(message.to);
    others?.delete(message);
    if (others?.size === 0) this.#byRecipient.delete(message.to);
  }
}

function matches(message: StoredMessage, filter: MessageFilter): boolean {
  const sentOn = message.receivedAt.toISOString().slice(0, 'YYYY-MM-DD'.length);
  return (
    message.accountSid === filter.accountSid &&
    (filter.to === undefined || message.to === filter.to) &&
    (filter.from === undefined || message.from === filter.from) &&
    (filter.sentOn === undefined || sentOn === filter.sentOn) &&
    (filter.sentOnOrBefore === undefined || sentOn <= filter.sentOnOrBefore) &&
    (filter.sentOnOrAfter === undefined || sentOn >= filter.sentOnOrAfter)
  );
}

/** How it ended. The answer to the request that created it says `queued` or `accepted` instead. */
export function statusOf(message: StoredMessage): 'sent' | 'undelivered' {
  return LATE_FAILURES[message.to] === undefined ? 'sent' : 'undelivered';
}

/** The Message resource as the answer to `POST` shows it: not sent yet. */
export function describeNew(message: StoredMessage) {
  const viaService = message.messagingServiceSid !== null;
  return {
    ...describe(message),
    status: viaService ? 'accepted' : 'queued',
    num_segments: viaService ? '0' : countSegments(message.body),
    error_code: null,
    date_sent: null,
  };
}

/** The Message resource as every later `GET` shows it. */
export function describe(message: StoredMessage) {
  const uri = `/2010-04-01/Accounts/${message.accountSid}/Messages/${message.sid}`;
  const receivedAt = rfc2822(message.receivedAt);
  return {
    sid: message.sid,
    account_sid: message.accountSid,
    messaging_service_sid: message.messagingServiceSid,
    from: message.from,
    to: message.to,
    body: message.body,
    status: statusOf(message),
    num_segments: countSegments(message.body),
    num_media: String(message.mediaCount),
    direction: 'outbound-api',
    error_code: LATE_FAILURES[message.to] ?? null,
    error_message: null,
    price: null,
    price_unit: null,
    date_created: receivedAt,
    date_updated: receivedAt,
    date_sent: receivedAt,
    api_version: '2010-04-01',
    uri: `${uri}.json`,
    subresource_uris: { media: `${uri}/Media.json` },
  };
}

function rfc2822(date: Date): string {
  return date.toUTCString().replace('GMT', '+0000');
}

/** ASCII stands in for the GSM-7 alphabet; a text of several segments loses seven (or three) characters of each. */
function countSegments(body: string): string {
  const isAscii = [...body].every((character) => character <= '~');
  const [single, several] = isAscii ? [160, 153] : [70, 67];
  return String(body.length <= single ? 1 : Math.ceil(body.length / several));
}

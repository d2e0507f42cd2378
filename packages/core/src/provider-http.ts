import { MINUTE, SECOND } from './durations.ts';
import type { OutboxError } from './errors.ts';
import { PermanentError, ProviderUnavailableError, RateLimitedError, type LimitScope } from './errors.ts';
import { codeOf } from './postgres.ts';

/** What an answer says, read once. */
export interface ProviderAnswer {
  status: number;
  headers: Headers;
  /** Parsed JSON, undefined for an empty body. */
  body: unknown;
}

export interface ProviderRequest {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  url: URL;
  headers?: Record<string, string>;
  /** A string or a form is sent as it is; anything else as JSON. */
  body?: unknown;
  /** True for a call that must not be carried out twice: without an answer nobody can tell whether it was. */
  mustNotRepeat?: boolean;
}

export interface ProviderHttpOptions {
  /** As people know it, e.g. `Bubble`. */
  provider: string;
  /** Deadline of one request, connecting and reading included. Milliseconds. */
  timeoutMs: number;
  /** Whom a 429 holds. */
  limitScope: LimitScope;
  /**
   * What an answer that is neither a success nor one of the common refusals (429, 408, 425, 5xx) means; undefined takes it
   * for permanent. Asked first, so it can also say something else of the common ones.
   */
  classify?: (answer: ProviderAnswer) => OutboxError | undefined;
}

/**
 * One HTTP request to a provider, as the error policy of all providers has it: resolves with a success (2xx, body parsed
 * as JSON); throws `RateLimitedError` for 429 (`Retry-After` obeyed), `ProviderUnavailableError` for 408, 425, 5xx, a
 * time-out, a broken connection or a body that is no JSON, and `PermanentError` for everything else. Never repeats by
 * itself, and no error quotes the URL's query, a header or a body: they may hold what must not be logged.
 */
export async function requestProvider(
  request: ProviderRequest,
  signal: AbortSignal,
  options: ProviderHttpOptions,
): Promise<ProviderAnswer> {
  const answer = await send(request, signal, options);
  if (answer.status >= 200 && answer.status < 300) return answer;
  throw options.classify?.(answer) ?? errorOfStatus(answer, request, options);
}

async function send(
  { method, url, headers = {}, body, mustNotRepeat = false }: ProviderRequest,
  signal: AbortSignal,
  { provider, timeoutMs }: ProviderHttpOptions,
): Promise<ProviderAnswer> {
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(url, {
      method,
      headers: { ...contentType(body), ...headers },
      body: encode(body),
      redirect: 'error',
      signal: AbortSignal.any([signal, deadline]),
    });
    return { status: response.status, headers: response.headers, body: await readBody(response) };
  } catch (error) {
    const reason = signal.aborted
      ? 'aborted before it answered'
      : deadline.aborted
        ? `no answer within ${timeoutMs} ms`
        : reasonOf(error);
    const wasSent = signal.aborted || deadline.aborted || !NEVER_SENT.test(reason);
    throw new ProviderUnavailableError(`${provider} could not be asked (${method} ${url.pathname}): ${reason}.`, {
      ambiguous: mustNotRepeat && wasSent,
    });
  }
}

/** A refusal may come as HTML (a proxy's, an overloaded provider's): its status says enough. A success may not. */
async function readBody(response: Response): Promise<unknown> {
  const text = await response.text();
  if (text === '') return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    if (response.ok) throw new UnreadableAnswerError();
    return undefined;
  }
}

class UnreadableAnswerError extends Error {
  readonly code = 'an answer that is not JSON';
}

function contentType(body: unknown): Record<string, string> {
  if (body === undefined || typeof body === 'string' || body instanceof URLSearchParams) return {};
  return { 'content-type': 'application/json' };
}

function encode(body: unknown): string | URLSearchParams | undefined {
  if (body === undefined || typeof body === 'string' || body instanceof URLSearchParams) return body;
  return JSON.stringify(body);
}

/** `fetch failed` has the reason as its cause. */
function reasonOf(error: unknown): string {
  return codeOf(error) || (error instanceof Error && codeOf(error.cause)) || 'connection failed';
}

/**
 * Nobody listened, nobody had that name, or the certificate was wrong: the request certainly never left. Codes that can
 * also end an open connection (EHOSTUNREACH, ETIMEDOUT, ECONNRESET) are not among them.
 */
export const NEVER_SENT =
  /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|CERT_.*|SELF_SIGNED_.*|DEPTH_ZERO_.*|UNABLE_TO_.*|ERR_TLS_CERT_ALTNAME_INVALID|UND_ERR_CONNECT_TIMEOUT)$/;

/** Client errors that say "not now" rather than "not so". */
export const TEMPORARY_STATUSES: ReadonlySet<number> = new Set([408, 425]);

function errorOfStatus(
  { status, headers }: ProviderAnswer,
  { method, url, mustNotRepeat = false }: ProviderRequest,
  { provider, limitScope }: ProviderHttpOptions,
): OutboxError {
  const message = `${provider} answered ${status} (${method} ${url.pathname}).`;
  if (status === 429) {
    return new RateLimitedError(message, retryAfterMs(headers.get('retry-after')), { scope: limitScope });
  }
  if (status < 400 || status >= 500 || TEMPORARY_STATUSES.has(status)) {
    return new ProviderUnavailableError(message, { ambiguous: mustNotRepeat });
  }
  return new PermanentError(message, { code: `${provider.toLowerCase()}_${status}` });
}

const MIN_RETRY_AFTER_MS = 1 * SECOND;
const MAX_RETRY_AFTER_MS = 15 * MINUTE;

/**
 * Milliseconds that a `Retry-After` header (seconds or an HTTP date) asks to wait, between 1 s and 15 min; `otherwiseMs`
 * when there is none that can be read.
 */
export function retryAfterMs(
  header: string | null | undefined,
  { now = Date.now(), otherwiseMs = MIN_RETRY_AFTER_MS }: { now?: number; otherwiseMs?: number } = {},
): number {
  const wait = header == null ? NaN : /^\d+$/.test(header) ? Number(header) * SECOND : Date.parse(header) - now;
  return Math.min(Math.max(Number.isNaN(wait) ? otherwiseMs : wait, MIN_RETRY_AFTER_MS), MAX_RETRY_AFTER_MS);
}

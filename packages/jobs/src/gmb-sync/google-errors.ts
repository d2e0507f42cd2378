import {
  MINUTE,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  retryAfterMs,
  SECOND,
  type OutboxError,
  type ProviderAnswer,
} from '@outbox/core';
import { z } from 'zod';

/**
 * What Google refuses for good, as the handler tells it apart. `PermanentError.code`.
 * - `unauthenticated`: the access token is not accepted; a new one may be.
 * - `revoked`, `scope`: the user has to connect the account again.
 * - `permission`, `missing`, `precondition`: this one thing cannot be read, others may be.
 * - `argument`: the request makes no sense to Google; with a page token, the listing may have to begin anew.
 * - the rest is a matter of the Cloud project or of our settings.
 */
export const REFUSED = {
  unauthenticated: 'google_unauthenticated',
  revoked: 'google_grant_revoked',
  scope: 'google_scope_insufficient',
  permission: 'google_permission_denied',
  missing: 'google_not_found',
  precondition: 'google_failed_precondition',
  argument: 'google_invalid_argument',
  quotaZero: 'google_quota_is_zero',
  disabled: 'google_service_disabled',
  client: 'google_client_refused',
} as const;

/** An answer that is not what Google documents: nothing can be concluded from it, least of all that something is gone. */
export class UnreadablePageError extends ProviderUnavailableError {
  constructor(what: string) {
    super(`Google's list of ${what} cannot be read.`, { ambiguous: false });
  }
}

/** Words in capitals: what people look up. Anything else in an answer may be somebody's data. */
const word = z.string().regex(/^[A-Z_]{1,64}$/);

const errorBody = z.object({
  error: z.object({
    status: word.optional().catch(undefined),
    details: z
      .array(
        z.object({
          reason: word.optional().catch(undefined),
          retryDelay: z
            .string()
            .regex(/^\d+(\.\d+)?s$/)
            .optional()
            .catch(undefined),
          metadata: z
            .object({ quota_limit_value: z.string().optional(), quota_unit: z.string().optional() })
            .optional()
            .catch(undefined),
        }),
      )
      .optional()
      .catch(undefined),
  }),
});

/** What one of Google's APIs means by an answer that is no success; undefined: what every provider means by it. */
export function classifyGoogle(answer: ProviderAnswer): OutboxError | undefined {
  const error = errorBody.safeParse(answer.body).data?.error;
  const details = error?.details ?? [];
  const reason = details.find((detail) => detail.reason !== undefined)?.reason;
  const said = [error?.status, reason].filter((part) => part !== undefined).join(', ') || 'no reason';
  const message = `Google answered ${answer.status} (${said}).`;
  const refuse = (code: string, advice: string) => new PermanentError(`${message} ${advice}`, { code });

  switch (answer.status) {
    case 429: {
      const isZero = details.some(({ metadata }) => metadata?.quota_limit_value === '0');
      if (isZero)
        return refuse(REFUSED.quotaZero, 'The Cloud project has no quota: ask Google for access to the APIs.');
      return new RateLimitedError(message, waitMs(answer, details), { scope: 'provider' });
    }
    case 401:
      return refuse(REFUSED.unauthenticated, 'The access token is not accepted.');
    case 403:
      if (reason === 'SERVICE_DISABLED') return refuse(REFUSED.disabled, 'Enable the API in the Cloud project.');
      if (reason === 'ACCESS_TOKEN_SCOPE_INSUFFICIENT') {
        return refuse(REFUSED.scope, 'The user has to connect the account again and grant business.manage.');
      }
      return error ? refuse(REFUSED.permission, 'The user has no access to it.') : undefined;
    case 404:
      // An address that does not exist is answered in HTML: that is our mistake, and says nothing about a location.
      return error ? refuse(REFUSED.missing, 'It is not there.') : undefined;
    case 400:
      return error?.status === 'FAILED_PRECONDITION'
        ? refuse(REFUSED.precondition, 'It is not in a state in which this can be read, e.g. not verified.')
        : refuse(REFUSED.argument, 'The request makes no sense to Google.');
    default:
      return undefined;
  }
}

const tokenErrorBody = z.object({ error: z.string().regex(/^[a-z_]{1,64}$/) });

/** The same of the token endpoint, which answers in another shape. */
export function classifyTokenEndpoint({ status, body }: ProviderAnswer): OutboxError | undefined {
  const error = tokenErrorBody.safeParse(body).data?.error;
  if (error === undefined || status === 429 || status >= 500) return undefined;
  const message = `Google's token endpoint answered ${status} (${error}).`;
  if (error === 'invalid_grant') {
    return new PermanentError(`${message} The user has to connect the account again.`, { code: REFUSED.revoked });
  }
  return new PermanentError(`${message} Check GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET.`, { code: REFUSED.client });
}

type Details = { retryDelay?: string | undefined; metadata?: { quota_unit?: string | undefined } | undefined }[];

/** The next minute begins for everybody at once: some come a little later. */
const MINUTE_JITTER_MS = 5 * SECOND;

/** `Retry-After`, else what Google's RetryInfo says, else until the quota begins anew. Bounded to 1 s … 15 min. */
function waitMs({ headers }: ProviderAnswer, details: Details): number {
  const retryDelay = details.find((detail) => detail.retryDelay !== undefined)?.retryDelay;
  const isPerDay = details.some(({ metadata }) => metadata?.quota_unit?.startsWith('1/d') ?? false);
  const otherwiseMs =
    retryDelay !== undefined
      ? Math.ceil(Number.parseFloat(retryDelay) * SECOND)
      : isPerDay
        ? Infinity
        : MINUTE - (Date.now() % MINUTE) + Math.random() * MINUTE_JITTER_MS;
  return retryAfterMs(headers.get('retry-after'), { otherwiseMs });
}

import { MINUTE, PermanentError, RateLimitedError, SECOND, type ProviderAnswer } from '@outbox/core';
import { classifyGoogle, classifyTokenEndpoint, REFUSED } from './google-errors.ts';

function answer(status: number, body?: unknown, headers: Record<string, string> = {}): ProviderAnswer {
  return { status, body, headers: new Headers(headers) };
}

/** As Google's APIs word an error. */
function googleError(code: number, status: string, ...details: Record<string, unknown>[]): ProviderAnswer {
  return answer(code, { error: { code, message: 'Somebody’s data.', status, details } });
}

const errorInfo = (reason: string, metadata: Record<string, string> = {}) => ({
  '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
  reason,
  domain: 'googleapis.com',
  metadata,
});

describe('what no other attempt can mend is permanent, under a code of its own', () => {
  test.each<[string, ProviderAnswer, string]>([
    ['an access token that is not accepted', googleError(401, 'UNAUTHENTICATED'), REFUSED.unauthenticated],
    ['no access', googleError(403, 'PERMISSION_DENIED'), REFUSED.permission],
    [
      'an API that is switched off',
      googleError(403, 'PERMISSION_DENIED', errorInfo('SERVICE_DISABLED')),
      REFUSED.disabled,
    ],
    [
      'a grant of less than we need',
      googleError(403, 'PERMISSION_DENIED', errorInfo('ACCESS_TOKEN_SCOPE_INSUFFICIENT')),
      REFUSED.scope,
    ],
    ['something that is not there', googleError(404, 'NOT_FOUND'), REFUSED.missing],
    ['a request that makes no sense', googleError(400, 'INVALID_ARGUMENT'), REFUSED.argument],
    ['a thing that is not in a state for it', googleError(400, 'FAILED_PRECONDITION'), REFUSED.precondition],
    [
      'a Cloud project without a quota',
      googleError(429, 'RESOURCE_EXHAUSTED', errorInfo('RATE_LIMIT_EXCEEDED', { quota_limit_value: '0' })),
      REFUSED.quotaZero,
    ],
  ])('%s', (_what, given, code) => {
    const error = classifyGoogle(given);
    expect(error).toBeInstanceOf(PermanentError);
    expect(error?.code).toBe(code);
    expect(error?.message).not.toContain('data');
  });
});

test.each([
  ['a page where an API should be', answer(404)],
  ['a refusal that is not Google’s', answer(403)],
  ['an outage', googleError(503, 'UNAVAILABLE')],
])('%s means what it means with every provider', (_what, given) => {
  expect(classifyGoogle(given)).toBeUndefined();
});

describe('a limit holds the whole project', () => {
  const limited = (given: ProviderAnswer): RateLimitedError => {
    const error = classifyGoogle(given);
    if (error instanceof RateLimitedError) return error;
    throw new Error(`no limit: ${String(error)}`);
  };
  const perMinute = errorInfo('RATE_LIMIT_EXCEEDED', { quota_limit_value: '300', quota_unit: '1/min/{project}' });

  test('for as long as Retry-After says', () => {
    const { body } = googleError(429, 'RESOURCE_EXHAUSTED', perMinute);
    const error = limited(answer(429, body, { 'retry-after': '17' }));
    expect(error).toMatchObject({ retryAfterMs: 17 * SECOND, scope: 'provider' });
  });

  test('else for as long as RetryInfo says', () => {
    const error = limited(googleError(429, 'RESOURCE_EXHAUSTED', perMinute, { retryDelay: '4.5s' }));
    expect(error.retryAfterMs).toBe(4.5 * SECOND);
  });

  test('else until the quota of the minute begins anew, and a little longer', () => {
    for (let n = 0; n < 100; n += 1) {
      const { retryAfterMs } = limited(googleError(429, 'RESOURCE_EXHAUSTED', perMinute));
      const untilNextMinuteMs = MINUTE - (Date.now() % MINUTE);
      expect(retryAfterMs).toBeGreaterThanOrEqual(Math.min(untilNextMinuteMs, 1 * SECOND));
      expect(retryAfterMs).toBeLessThanOrEqual(MINUTE + 5 * SECOND);
    }
  });

  test('of a day for a quarter of an hour, after which it is asked again', () => {
    const perDay = errorInfo('RATE_LIMIT_EXCEEDED', { quota_limit_value: '300', quota_unit: '1/d/{project}' });
    expect(limited(googleError(429, 'RESOURCE_EXHAUSTED', perDay)).retryAfterMs).toBe(15 * MINUTE);
  });

  test('also when the answer says nothing', () => {
    expect(limited(answer(429)).scope).toBe('provider');
  });
});

describe('the token endpoint', () => {
  test('of a grant that was revoked or has expired: its user has to connect again', () => {
    const error = classifyTokenEndpoint(answer(400, { error: 'invalid_grant', error_description: 'Somebody’s data.' }));
    expect(error).toMatchObject({ name: 'PermanentError', code: REFUSED.revoked });
    expect(error?.message).not.toContain('data');
  });

  test.each(['invalid_client', 'unauthorized_client', 'invalid_request'])('of our own client: %s', (word) => {
    const error = classifyTokenEndpoint(answer(401, { error: word }));
    expect(error).toMatchObject({ name: 'PermanentError', code: REFUSED.client });
  });

  test.each([
    ['an outage', answer(503, { error: 'internal_failure' })],
    ['a limit', answer(429, { error: 'rate_limited' })],
    ['a page', answer(400)],
  ])('of %s means what it means with every provider', (_what, given) => {
    expect(classifyTokenEndpoint(given)).toBeUndefined();
  });
});

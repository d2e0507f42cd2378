import type { Reply } from '../shared/exchange.ts';

/** Google's name for a status of an error body. */
const NAME_OF_STATUS: Record<number, string> = {
  400: 'INVALID_ARGUMENT',
  401: 'UNAUTHENTICATED',
  403: 'PERMISSION_DENIED',
  404: 'NOT_FOUND',
  409: 'ABORTED',
  429: 'RESOURCE_EXHAUSTED',
  500: 'INTERNAL',
  502: 'UNAVAILABLE',
  503: 'UNAVAILABLE',
  504: 'DEADLINE_EXCEEDED',
};

/** The envelope of every API but the token endpoint. */
export function refuse(code: number, message: string, details: object[] = []): Reply {
  const status = NAME_OF_STATUS[code] ?? 'UNKNOWN';
  return { status: code, body: { error: { code, message, status, ...(details.length > 0 && { details }) } } };
}

export function errorInfo(reason: string, metadata: Record<string, string> = {}): object {
  return { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason, domain: 'googleapis.com', metadata };
}

/** The token endpoint's own shape. */
export function refuseToken(status: number, error: string, description: string): Reply {
  return { status, body: { error, error_description: description } };
}

export const invalidArgument = (message: string): Reply => refuse(400, message);

export const notFound = (): Reply => refuse(404, 'Requested entity was not found.');

export const unauthenticated = (): Reply =>
  refuse(
    401,
    'Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid ' +
      'authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.',
    [errorInfo('ACCESS_TOKEN_EXPIRED')],
  );

/** Beyond the quota of one API. A limit of 0 says that Google never approved the project. */
export function quotaExceeded(service: string, limit: string): Reply {
  const message =
    `Quota exceeded for quota metric 'Requests' and limit 'Requests per minute' of service '${service}' ` +
    `for consumer 'project_number:1'.`;
  return refuse(429, message, [
    errorInfo('RATE_LIMIT_EXCEEDED', {
      service,
      quota_metric: `${service}/default_requests`,
      quota_limit: 'DefaultRequestsPerMinutePerProject',
      quota_limit_value: limit,
      quota_unit: '1/min/{project}',
      consumer: 'projects/1',
    }),
  ]);
}

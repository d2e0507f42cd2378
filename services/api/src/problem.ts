import { codeOf, isConnectionError, isContention, OutboxError, RefusedError, type Logger } from '@outbox/core';
import type { ErrorRequestHandler, RequestHandler, Response } from 'express';
import { z } from 'zod';

/** Every kind of refusal: the end of its `type`, its status and its title. */
const KINDS = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'malformed-json': { status: 400, title: 'The body is not valid JSON' },
  unauthorized: { status: 401, title: 'Who is calling is not known' },
  forbidden: { status: 403, title: 'This is not allowed' },
  'not-found': { status: 404, title: 'There is nothing here' },
  'method-not-allowed': { status: 405, title: 'This cannot be done here' },
  conflict: { status: 409, title: 'Its state does not allow this' },
  'too-large': { status: 413, title: 'The body is too large' },
  'unsupported-media-type': { status: 415, title: 'The body is in a format that is not understood' },
  'too-many-requests': { status: 429, title: 'Too many requests' },
  internal: { status: 500, title: 'Something went wrong here' },
  /** Somebody holds a row this request needs; the same request will work in a moment. */
  busy: { status: 503, title: 'Somebody else is changing this just now' },
  unavailable: { status: 503, title: 'The service cannot do this at the moment' },
} as const;

export type ProblemKind = keyof typeof KINDS;

export interface FieldError {
  /** Where, e.g. `payload.autoSyncId`, or the name of a header. */
  field: string;
  message: string;
}

/** RFC 9457. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance?: string;
  errors?: FieldError[];
}

/** Thrown to refuse a request; everything in it is shown to the caller. */
export class ProblemError extends OutboxError {
  readonly code: ProblemKind;
  readonly errors: FieldError[] | undefined;
  readonly headers: Record<string, string>;

  constructor(
    code: ProblemKind,
    detail: string,
    options: ErrorOptions & { errors?: FieldError[]; headers?: Record<string, string> } = {},
  ) {
    super(detail, options);
    this.code = code;
    this.errors = options.errors;
    this.headers = options.headers ?? {};
  }
}

/** The one builder of error bodies. `instance` is where to find this very case: the request id of the log. */
export function buildProblem(error: ProblemError, instance?: string): Problem {
  const { status, title } = KINDS[error.code];
  return {
    type: `urn:outbox-bridge:problem:${error.code}`,
    title,
    status,
    detail: error.message,
    ...(instance === undefined ? {} : { instance }),
    ...(error.errors === undefined ? {} : { errors: error.errors }),
  };
}

/** Names every field that is wrong. */
export function invalidRequest(errors: FieldError[]): ProblemError {
  return new ProblemError('invalid-request', errors.map(({ field, message }) => `${field} ${message}`).join('; '), {
    errors,
  });
}

/** What zod found, below `prefix`; a field that is not known is named itself. */
export function fieldErrors(error: z.core.$ZodError, prefix: string[] = []): FieldError[] {
  return error.issues.flatMap((issue) => {
    const path = [...prefix, ...issue.path];
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({ field: [...path, key].join('.'), message: 'is not a known field' }));
    }
    return [{ field: path.join('.') || 'body', message: issue.message }];
  });
}

export const unknownRoute: RequestHandler = (request) => {
  throw new ProblemError('not-found', `There is no ${request.method} ${request.path}.`);
};

/** Answers every error with a problem; what a caller cannot help is logged, and not shown. */
export function handleErrors(log: Logger): ErrorRequestHandler {
  // Express knows an error handler by its four parameters.
  return (error: unknown, _request, response, next) => {
    if (response.headersSent) return next(error);
    const problem = toProblem(error);
    const requestId = response.get('X-Request-Id');
    if (problem.code === 'internal') log.error({ err: error, requestId }, 'request failed');
    else if (KINDS[problem.code].status === 503) log.warn({ err: error, requestId }, 'request put off');
    sendProblem(response, problem);
  };
}

export function sendProblem(response: Response, error: ProblemError): void {
  const requestId = response.get('X-Request-Id');
  const body = buildProblem(error, requestId && `urn:uuid:${requestId}`);
  response.status(body.status).set(error.headers).type('application/problem+json').json(body);
}

function toProblem(error: unknown): ProblemError {
  if (error instanceof ProblemError) return error;
  if (error instanceof RefusedError) return refusedByOutbox(error);
  if (error instanceof z.core.$ZodError) return invalidRequest(fieldErrors(error));
  if (isContention(error)) {
    const detail = 'A transaction in progress holds a row that this request needs. Send it again.';
    return new ProblemError('busy', detail, { cause: error, headers: { 'Retry-After': '1' } });
  }
  if (isConnectionError(error)) {
    const detail = 'The database does not answer. Send the request again later.';
    return new ProblemError('unavailable', detail, { cause: error, headers: { 'Retry-After': '5' } });
  }
  return refusedByExpress(error) ?? internalProblem(error);
}

/** What does not exist is 404, what its state does not allow 409. */
function refusedByOutbox(error: RefusedError): ProblemError {
  const isMissing = error.code.startsWith('no_such_');
  const detail = error.hint === undefined ? error.message : `${error.message} ${error.hint}`;
  return new ProblemError(isMissing ? 'not-found' : 'conflict', detail, { cause: error });
}

function internalProblem(cause: unknown): ProblemError {
  return new ProblemError('internal', 'It has been logged with the id in "instance".', { cause });
}

/** SQLSTATE class 22: Postgres cannot store a value, e.g. a text with a NUL character. */
export function isDataException(error: unknown): boolean {
  return /^22...$/.test(codeOf(error));
}

const httpError = z.object({ status: z.number().int().min(400).max(499), type: z.string().optional() });

/** What express and its body parser refuse before a route sees it. */
function refusedByExpress(error: unknown): ProblemError | undefined {
  const { data } = httpError.safeParse(error);
  if (data === undefined) return undefined;
  switch (data.status) {
    case 413:
      return new ProblemError('too-large', 'The body may have at most 100 kB.', { cause: error });
    case 415:
      return new ProblemError('unsupported-media-type', 'Send JSON in UTF-8.', { cause: error });
    default:
      return data.type === 'entity.parse.failed'
        ? new ProblemError('malformed-json', 'The body cannot be parsed as JSON.', { cause: error })
        : new ProblemError('invalid-request', 'The address or the body is malformed.', { cause: error });
  }
}

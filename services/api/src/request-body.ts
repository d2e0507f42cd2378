import type { Request } from 'express';
import { z } from 'zod';

export const objectRule = 'must be a JSON object, sent as application/json';

/** The body of a request that may come without one. What is no JSON stays undefined, and is refused like any wrong body. */
export function optionalBody(request: Request): unknown {
  const isEmpty = request.get('transfer-encoding') === undefined && Number(request.get('content-length') ?? 0) === 0;
  return isEmpty ? {} : (request.body as unknown);
}

/** Words of a person, 1 to `max` characters, which Postgres can keep. */
export function sentence(max: number) {
  const rule = `must have 1 to ${max} characters`;
  return z
    .string(rule)
    .trim()
    .min(1, rule)
    .max(max, rule)
    .refine((text) => !text.includes('\0') && text.isWellFormed(), 'holds characters that the database cannot store');
}

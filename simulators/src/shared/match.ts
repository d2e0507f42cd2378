import type { Request } from 'express';
import { z } from 'zod';

/** Which requests a fault means: all of what is given must fit, and nothing given fits all. */
export const requestMatch = z.strictObject({
  method: z.string().toUpperCase().optional(),
  path: z
    .string()
    .optional()
    .describe('A part of the path and query, decoded: "/obj/user", "accounts/1/", "cursor=100"'),
  body: z.string().optional().describe('A part of the body as it was sent'),
});

export type RequestMatch = z.output<typeof requestMatch>;

export function fitsRequest(match: RequestMatch | undefined, request: Request): boolean {
  if (!match) return true;
  const { method = request.method, path = '', body = '' } = match;
  return request.method === method && decodeUrl(request.url).includes(path) && bodyText(request).includes(body);
}

/** The body as text; the APIs that use this read every body as text. */
export function bodyText(request: Request): string {
  return typeof request.body === 'string' ? request.body : '';
}

function decodeUrl(url: string): string {
  try {
    return decodeURIComponent(url.replaceAll('+', ' '));
  } catch {
    return url;
  }
}

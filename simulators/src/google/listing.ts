import { createHash } from 'node:crypto';
import type { Request } from 'express';
import { z } from 'zod';
import { queryOf } from '../shared/serve.ts';

export interface PageRequest {
  size: number;
  offset: number;
  /** From 1. */
  page: number;
  /** What this listing is of. A token of another is refused. */
  listing: string;
}

/** Thrown on a parameter Google refuses. */
export class BadParameter extends Error {
  override name = 'BadParameter';
}

/**
 * Reads `pageSize` and `pageToken`. A token holds on to the listing it came from: its path, its order, and the grant of who
 * asked. The size may change from page to page.
 */
export function readPage(
  request: Request,
  sizes: { max: number; usual: number },
  { grant = '', order = '' }: { grant?: string | undefined; order?: string } = {},
): PageRequest {
  const { pageSize, pageToken } = queryOf(request);
  const size = z.coerce.number().int().min(1).max(sizes.max).default(sizes.usual).safeParse(pageSize);
  if (!size.success) throw new BadParameter(`page_size must be between 1 and ${sizes.max}.`);
  const listing = fingerprint(JSON.stringify([request.path, order, grant]));
  return { size: size.data, listing, ...(pageToken ? readToken(pageToken, listing) : { offset: 0, page: 1 }) };
}

/** Number of the page that is asked for, from 1, whatever listing its token is of; 0 when it is no token of ours. */
export function pageNumber(request: Request): number {
  const { pageToken } = queryOf(request);
  return pageToken ? (decode(pageToken)?.page ?? 0) : 1;
}

/** One page, and the token of the next, which is absent after the last. */
export function cutPage<Item>(items: Item[], { size, offset, page, listing }: PageRequest) {
  const next = offset + size;
  return {
    items: items.slice(offset, next),
    ...(next < items.length && { nextPageToken: encode(`${listing}:${next}:${page + 1}`) }),
  };
}

function readToken(token: string, listing: string): { offset: number; page: number } {
  const { of, ...place } = decode(token) ?? { of: undefined, offset: 0, page: 0 };
  if (of !== listing) throw new BadParameter('page_token is invalid.');
  return place;
}

function encode(token: string): string {
  return Buffer.from(token).toString('base64url');
}

function decode(token: string): { of: string; offset: number; page: number } | undefined {
  const [, of, offset, page] = /^(\w+):(\d+):(\d+)$/.exec(Buffer.from(token, 'base64url').toString()) ?? [];
  return of === undefined ? undefined : { of, offset: Number(offset), page: Number(page) };
}

function fingerprint(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

import { createHash } from 'node:crypto';
import type { Request } from 'express';
import { z } from 'zod';
import { queryOf } from '../shared/serve.ts';

export interface PageRequest {
  size: number;
  offset: number;
  /** What this listing is of. A token of another is refused. */
  listing: string;
}

/** Thrown on a parameter Google refuses. */
export class BadParameter extends Error {
  override name = 'BadParameter';
}

/** Reads `pageSize` and `pageToken`. A token holds on to the listing it came from: its path, order and page size. */
export function readPage(request: Request, sizes: { max: number; usual: number }, order = ''): PageRequest {
  const { pageSize, pageToken } = queryOf(request);
  const size = z.coerce.number().int().min(1).max(sizes.max).default(sizes.usual).safeParse(pageSize);
  if (!size.success) throw new BadParameter(`page_size must be between 1 and ${sizes.max}.`);
  const listing = fingerprint(`${request.path} ${order}`);
  return { size: size.data, offset: pageToken ? offsetOf(pageToken, listing) : 0, listing };
}

/** One page, and the token of the next, which is absent after the last. */
export function cutPage<Item>(items: Item[], { size, offset, listing }: PageRequest) {
  const next = offset + size;
  return {
    items: items.slice(offset, next),
    ...(next < items.length && { nextPageToken: Buffer.from(`${listing}:${next}`).toString('base64url') }),
  };
}

function offsetOf(token: string, listing: string): number {
  const [, of, offset] = /^(\w+):(\d+)$/.exec(Buffer.from(token, 'base64url').toString()) ?? [];
  if (of !== listing) throw new BadParameter('page_token is invalid.');
  return Number(offset);
}

function fingerprint(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

import { HOUR } from '@outbox/core';
import { pagesOf } from './paging.ts';
import * as store from './store.ts';
import type { Sync } from './sync.ts';

/**
 * How far behind the watermark an incremental sync reads on: Google may show a change a while after the `updateTime` it
 * gives it.
 */
const OVERLAP_MS = 1 * HOUR;

export interface ReviewsRead {
  read: number;
  written: number;
  deleted: number;
}

/**
 * Reads the reviews of one location, the last changed first, and writes each page as it comes. An incremental sync stops
 * where the last one began; without a watermark, and in a full sync, all are read.
 *
 * What can be read is kept. An item that cannot leaves the watermark where it is, so that the next sync reads from there
 * again, and nothing is deleted. A page that cannot throws (`UnreadablePageError`), and leaves both alone as well. Nor is
 * anything deleted when Google counts more reviews than it listed: one that was changed while we read has moved to a page
 * that we had read.
 */
export async function syncReviews(
  { accountId, googleName, mode, access, google, context }: Sync,
  location: string,
  watermark: Date | null,
): Promise<ReviewsRead> {
  const { db, jobId } = context;
  const listedAt = await store.readClock(db);
  const until = mode === 'incremental' && watermark ? watermark.getTime() - OVERLAP_MS : undefined;
  const names = new Set<string>();
  let newest: string | undefined;
  let written = 0;
  let unreadable = 0;
  let total = 0;
  let isWhole = true;

  const pages = pagesOf('reviews', (pageToken) =>
    access.call((token, signal) => google.listReviews(token, `${googleName}/${location}`, pageToken, signal)),
  );
  for await (const page of pages) {
    written += page.items.length > 0 ? await store.recordReviews(db, accountId, location, page.items) : 0;
    unreadable += page.unreadable;
    total = page.totalReviewCount ?? total;
    for (const { name, updatedAt } of page.items) {
      names.add(name);
      if (newest === undefined || Date.parse(updatedAt) > Date.parse(newest)) newest = updatedAt;
    }
    const oldest = page.items.at(-1);
    if (until !== undefined && oldest && Date.parse(oldest.updatedAt) < until) {
      isWhole = false;
      break;
    }
  }

  const isReadable = unreadable === 0;
  const canDelete = mode === 'full' && isReadable && isWhole && names.size >= total;
  const deleted = await store.endReviews(db, accountId, jobId, {
    location,
    listedAt,
    reviewsUntil: isReadable ? newest : undefined,
    names: canDelete ? [...names] : undefined,
  });
  if (!isReadable) {
    const message = `${unreadable} reviews of ${location} cannot be read; they are looked at again by the next sync.`;
    await store.noteProblem(db, accountId, jobId, location, { code: 'unreadable_reviews', message });
  }
  return { read: names.size, written, deleted };
}

import type { ProviderAnswer } from '@outbox/core';
import { z } from 'zod';
import { UnreadablePageError } from './google-errors.ts';

/** One page of a list. `unreadable`: how many of its items could not be read and are left out. */
export interface Page<Item> {
  items: Item[];
  unreadable: number;
  nextPageToken: string | undefined;
}

export type GoogleLocation = z.output<typeof location>;

/** A review in our words. Instants are ISO 8601. `data` is all that Google said. */
export interface Review {
  name: string;
  reviewer: string | null;
  rating: number | null;
  comment: string | null;
  reply: string | null;
  repliedAt: string | null;
  createdAt: string | null;
  updatedAt: string;
  data: Record<string, unknown>;
}

export interface ReviewPage extends Page<Review> {
  /** Of the whole list, as far as Google says. */
  totalReviewCount: number | undefined;
}

// Google adds fields several times a year: what we need is asked for, the rest is kept as it is.

const account = z.looseObject({ name: z.string().regex(/^accounts\/[^/]+$/) });

const location = z.looseObject({ name: z.string().regex(/^locations\/[^/]+$/) });

const STARS = ['ONE', 'TWO', 'THREE', 'FOUR', 'FIVE'];

const instant = z.iso.datetime({ offset: true });
const optionalText = z.string().nullish().catch(null);
const optionalInstant = instant.nullish().catch(null);

const review = z
  .looseObject({
    name: z.string().regex(/^accounts\/[^/]+\/locations\/[^/]+\/reviews\/[^/]+$/),
    updateTime: instant,
    createTime: optionalInstant,
    starRating: optionalText,
    comment: optionalText,
    reviewer: z.looseObject({ displayName: optionalText }).nullish().catch(null),
    reviewReply: z.looseObject({ comment: optionalText, updateTime: optionalInstant }).nullish().catch(null),
  })
  .transform(({ name, updateTime, createTime, starRating, comment, reviewer, reviewReply }): Omit<Review, 'data'> => {
    const stars = STARS.indexOf(starRating ?? '') + 1;
    return {
      name,
      reviewer: reviewer?.displayName ?? null,
      rating: stars === 0 ? null : stars,
      comment: comment ?? null,
      reply: reviewReply?.comment ?? null,
      repliedAt: reviewReply?.updateTime ?? null,
      createdAt: createTime ?? null,
      updatedAt: updateTime,
    };
  });

export function parseAccounts(answer: ProviderAnswer): Page<string> {
  return toPage('accounts', answer, (item) => account.safeParse(item).data?.name);
}

export function parseLocations(answer: ProviderAnswer): Page<GoogleLocation> {
  return toPage('locations', answer, (item) => location.safeParse(item).data);
}

export function parseReviews(answer: ProviderAnswer): ReviewPage {
  const page = toPage('reviews', answer, (item): Review | undefined => {
    const parsed = review.safeParse(item);
    return parsed.success ? { ...parsed.data, data: item as Record<string, unknown> } : undefined;
  });
  const { totalReviewCount } = z
    .looseObject({ totalReviewCount: z.int().optional().catch(undefined) })
    .parse(answer.body);
  return { ...page, totalReviewCount };
}

const pageToken = z.string().optional();

/** An empty list comes as `{}`. Throws `UnreadablePageError` when it cannot be told what is on the page, or how to go on. */
function toPage<Item>(
  field: string,
  { body }: ProviderAnswer,
  parseItem: (item: unknown) => Item | undefined,
): Page<Item> {
  const envelope = z
    .looseObject({ [field]: z.array(z.unknown()).optional(), nextPageToken: pageToken })
    .safeParse(body).data;
  if (envelope === undefined) throw new UnreadablePageError(field);
  const listed = z.array(z.unknown()).parse(envelope[field] ?? []);
  const items = listed.map(parseItem).filter((item) => item !== undefined);
  const nextPageToken = pageToken.parse(envelope.nextPageToken);
  return { items, unreadable: listed.length - items.length, nextPageToken: nextPageToken || undefined };
}

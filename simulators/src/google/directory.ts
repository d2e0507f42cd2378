import { z } from 'zod';

const RATINGS = ['ONE', 'TWO', 'THREE', 'FOUR', 'FIVE'] as const;

export const STARS: Record<string, number> = Object.fromEntries(RATINGS.map((name, index) => [name, index + 1]));

const instant = z.iso.datetime({ offset: true });

const reviewFields = z.looseObject({
  reviewId: z.string().min(1),
  reviewer: z.looseObject({ displayName: z.string().optional() }),
  starRating: z.enum(RATINGS),
  comment: z.string(),
  createTime: instant,
  updateTime: instant,
  reviewReply: z.looseObject({ comment: z.string(), updateTime: instant }),
});

export const reviewInput = reviewFields.partial();

export const locationInput = z.looseObject({
  name: z
    .string()
    .regex(/^locations\/[^/]+$/)
    .optional(),
  title: z.string().optional(),
  reviews: z.array(reviewInput).default([]),
});

export const accountInput = z.strictObject({
  name: z
    .string()
    .regex(/^accounts\/[^/]+$/)
    .optional(),
  accountName: z.string().optional(),
  type: z.string().default('PERSONAL'),
  role: z.string().default('PRIMARY_OWNER'),
  verificationState: z.string().default('VERIFIED'),
  vettedState: z.string().default('NOT_VETTED'),
  refreshToken: z.string().min(1).optional().describe('Accounts of one token belong to one Google user'),
  locations: z.array(locationInput).default([]),
});

export type ReviewInput = z.input<typeof reviewInput>;
export type LocationInput = z.input<typeof locationInput>;
export type AccountInput = z.input<typeof accountInput>;

/** A review as v4 shows it, and whatever else it was given. */
export interface Review {
  name: string;
  reviewId: string;
  reviewer: { displayName?: string | undefined };
  starRating: (typeof RATINGS)[number];
  comment?: string | undefined;
  createTime: string;
  updateTime: string;
  reviewReply?: { comment?: string | undefined; updateTime?: string | undefined } | undefined;
}

/** A location's fields as Business Information shows them, and its reviews by id. */
export interface Location {
  fields: Record<string, unknown> & { name: string; title: string };
  reviews: Map<string, Review>;
}

export interface Account {
  fields: { name: string; accountName: string } & Record<string, string>;
  refreshToken: string;
  /** By `locations/{id}`. */
  locations: Map<string, Location>;
}

/** All accounts there are, with their locations and reviews, in memory. */
export class Directory {
  readonly #now: () => number;
  /** By `accounts/{id}`. */
  readonly #accounts = new Map<string, Account>();
  #lastId = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  addAccount(input: AccountInput): Account {
    const { name, accountName, refreshToken, locations, ...rest } = accountInput.parse(input);
    const id = name ?? `accounts/${this.#nextId()}`;
    const account: Account = {
      fields: { name: id, accountName: accountName ?? `Account ${id.slice('accounts/'.length)}`, ...rest },
      refreshToken: refreshToken ?? `1//refresh-${id.slice('accounts/'.length)}`,
      locations: new Map(),
    };
    this.#accounts.set(id, account);
    for (const location of locations) this.addLocation(id, location);
    return account;
  }

  addLocation(accountName: string, input: LocationInput): Location {
    const { name, title, reviews, ...rest } = locationInput.parse(input);
    const id = name ?? `locations/${this.#nextId()}`;
    const location: Location = {
      fields: { ...rest, name: id, title: title ?? `Location ${id.slice('locations/'.length)}` },
      reviews: new Map(),
    };
    this.account(accountName).locations.set(id, location);
    for (const review of reviews) this.addReview(accountName, id, review);
    return location;
  }

  addReview(accountName: string, locationName: string, input: ReviewInput): Review {
    const { reviewId, ...given } = reviewInput.parse(input);
    const id = reviewId ?? `AbF${this.#nextId()}`;
    const createTime = given.createTime ?? given.updateTime ?? this.#instant();
    const review: Review = {
      name: `${accountName}/${locationName}/reviews/${id}`,
      reviewId: id,
      reviewer: { displayName: 'A customer' },
      starRating: 'FIVE',
      updateTime: createTime,
      ...given,
      createTime,
    };
    this.location(accountName, locationName).reviews.set(id, review);
    return review;
  }

  /** Changes the given fields. Unless one is given, `updateTime` becomes now, as when a customer edits. */
  updateReview(name: string, changes: ReviewInput): Review {
    const { reviews, review } = this.review(name);
    const changed: Review = {
      ...review,
      updateTime: this.#instant(),
      ...reviewInput.parse(changes),
      name,
      reviewId: review.reviewId,
    };
    reviews.set(review.reviewId, changed);
    return changed;
  }

  removeReview(name: string): void {
    const { reviews, review } = this.review(name);
    reviews.delete(review.reviewId);
  }

  removeLocation(accountName: string, locationName: string): void {
    this.location(accountName, locationName);
    this.account(accountName).locations.delete(locationName);
  }

  find(accountName: string): Account | undefined {
    return this.#accounts.get(accountName);
  }

  /** Throws an error that names the account when there is none, as do the following. */
  account(name: string): Account {
    return this.find(name) ?? fail(`There is no ${name}`);
  }

  location(accountName: string, locationName: string): Location {
    return this.account(accountName).locations.get(locationName) ?? fail(`There is no ${accountName}/${locationName}`);
  }

  review(name: string): { reviews: Map<string, Review>; review: Review } {
    const [, account = '', location = '', id = ''] =
      /^(accounts\/[^/]+)\/(locations\/[^/]+)\/reviews\/(.+)$/.exec(name) ?? [];
    const { reviews } = this.location(account, location);
    return { reviews, review: reviews.get(id) ?? fail(`There is no ${name}`) };
  }

  /** What a Google user who granted this token may see, in the order it was added. */
  accountsOf(refreshToken: string): Account[] {
    return this.all().filter((account) => account.refreshToken === refreshToken);
  }

  all(): Account[] {
    return [...this.#accounts.values()];
  }

  clear(): void {
    this.#accounts.clear();
  }

  #nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  #instant(): string {
    return new Date(this.#now()).toISOString();
  }
}

function fail(message: string): never {
  throw new RangeError(message);
}

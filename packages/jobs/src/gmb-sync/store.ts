import type { Queryable } from '@outbox/core';
import type { GoogleLocation, Review } from './google-pages.ts';
import type { RenewedAccess } from './google-token.ts';
import type { SyncType } from './job.ts';

// All of these may be repeated: said twice, they leave what said once.

export interface Account {
  id: string;
  /** Google's name of it, e.g. `accounts/1`; null until it is known. */
  googleName: string | null;
  isActive: boolean;
  /** When a full sync ended last. */
  fullSyncedAt: Date | null;
}

const FIND_ACCOUNT = /* sql */ `
  select a.id, a.google_name as "googleName", a.is_active as "isActive", m.full_synced_at as "fullSyncedAt"
  from gmb.account_source a
  left join gmb.account_marks m on m.account_id = a.id
  where a.id = $1
  limit 1`;

/** Undefined when the host has deleted it. */
export async function findAccount(db: Queryable, accountId: string): Promise<Account | undefined> {
  const { rows } = await db.query<Account & Record<string, unknown>>(FIND_ACCOUNT, [accountId]);
  return rows[0];
}

export interface Tokens {
  refreshToken: string | null;
  accessToken: string | null;
  expiresAt: Date | null;
}

const FIND_TOKENS = /* sql */ `
  select refresh_token as "refreshToken", access_token as "accessToken", expires_at as "expiresAt"
  from gmb.account_tokens
  where account_id = $1
  limit 1`;

export async function findTokens(db: Queryable, accountId: string): Promise<Tokens> {
  const { rows } = await db.query<Tokens & Record<string, unknown>>(FIND_TOKENS, [accountId]);
  return rows[0] ?? { refreshToken: null, accessToken: null, expiresAt: null };
}

const RECORD_ACCESS = /* sql */ `
  select gmb.record_access_token(account_id => $1, access_token => $2, expires_at => $3, refresh_token => $4)
  limit 1`;

export async function recordAccess(db: Queryable, accountId: string, access: RenewedAccess): Promise<void> {
  const { accessToken, expiresAt, refreshToken } = access;
  await db.query(RECORD_ACCESS, [accountId, accessToken, expiresAt, refreshToken ?? null]);
}

const REQUIRE_RECONNECTION = /* sql */ `
  select gmb.require_reconnection(account_id => $1, refresh_token => $2, reason => $3)
  limit 1`;

/** Unless the user has connected it again meanwhile. */
export async function requireReconnection(
  db: Queryable,
  accountId: string,
  refreshToken: string | null,
  reason: string,
): Promise<void> {
  await db.query(REQUIRE_RECONNECTION, [accountId, refreshToken, reason]);
}

const RECORD_GOOGLE_NAME = /* sql */ `
  select gmb.record_google_name(account_id => $1, google_name => $2)
  limit 1`;

export async function recordGoogleName(db: Queryable, accountId: string, googleName: string): Promise<void> {
  await db.query(RECORD_GOOGLE_NAME, [accountId, googleName]);
}

const READ_CLOCK = /* sql */ `
  select clock_timestamp()::text as now
  limit 1`;

/** The database's clock, as text with all its digits. */
export async function readClock(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ now: string }>(READ_CLOCK);
  const now = rows[0]?.now;
  if (now === undefined) throw new Error('Postgres does not say what time it is.');
  return now;
}

const RECORD_LOCATIONS = /* sql */ `
  select gmb.record_locations(account_id => $1, locations => $2) as written
  limit 1`;

/** Writes those that have changed; gives how many. */
export function recordLocations(db: Queryable, accountId: string, locations: GoogleLocation[]): Promise<number> {
  return count(db, RECORD_LOCATIONS, [accountId, JSON.stringify(locations)]);
}

const END_LOCATIONS = /* sql */ `
  select gmb.end_locations(account_id => $1, names => $2, listed_at => $3) as written
  limit 1`;

/** Marks all others as deleted; gives how many. `listedAt`: when the listing began. */
export function endLocations(db: Queryable, accountId: string, names: string[], listedAt: string): Promise<number> {
  return count(db, END_LOCATIONS, [accountId, names, listedAt]);
}

export interface LocationProgress {
  name: string;
  /** The watermark: the newest `updateTime` up to which everything has been recorded. */
  reviewsUntil: Date | null;
  /** This job is through with it. */
  isDone: boolean;
  problem: string | null;
}

const LIST_PROGRESS = /* sql */ `
  select name, reviews_until as "reviewsUntil", is_done as "isDone", problem
  from gmb.location_progress(account_id => $1, job_id => $2)
  limit 100000`;

export async function listProgress(db: Queryable, accountId: string, jobId: string): Promise<LocationProgress[]> {
  const { rows } = await db.query<LocationProgress & Record<string, unknown>>(LIST_PROGRESS, [accountId, jobId]);
  return rows;
}

const RECORD_REVIEWS = /* sql */ `
  select gmb.record_reviews(account_id => $1, location_name => $2, reviews => $3) as written
  limit 1`;

/** Writes those that are new or have changed; gives how many. */
export function recordReviews(db: Queryable, accountId: string, location: string, reviews: Review[]): Promise<number> {
  const rows = reviews.map(({ repliedAt, createdAt, updatedAt, ...review }) => ({
    ...review,
    replied_at: repliedAt,
    created_at: createdAt,
    updated_at: updatedAt,
  }));
  return count(db, RECORD_REVIEWS, [accountId, location, JSON.stringify(rows)]);
}

export interface ReviewsRead {
  location: string;
  /** When the listing began, by the database's clock. */
  listedAt: string;
  /** The new watermark; undefined leaves it where it is. */
  reviewsUntil: string | undefined;
  /** All there are; undefined when the listing was not complete, and nothing can be said about the others. */
  names: string[] | undefined;
}

const END_REVIEWS = /* sql */ `
  select gmb.end_reviews(
    account_id => $1, location_name => $2, job_id => $3, reviews_until => $4, listed_at => $5, names => $6
  ) as written
  limit 1`;

/** The job is through with the location; gives how many reviews were marked as deleted. */
export function endReviews(db: Queryable, accountId: string, jobId: string, read: ReviewsRead): Promise<number> {
  const { location, reviewsUntil, listedAt, names } = read;
  return count(db, END_REVIEWS, [accountId, location, jobId, reviewsUntil ?? null, listedAt, names ?? null]);
}

const NOTE_PROBLEM = /* sql */ `
  select gmb.note_problem(account_id => $1, location_name => $2, job_id => $3, code => $4, message => $5)
  limit 1`;

export interface Problem {
  code: string;
  message: string;
}

/** The job is through with the location although it could not read all of it. The host finds it in its log, once. */
export async function noteProblem(
  db: Queryable,
  accountId: string,
  jobId: string,
  location: string,
  { code, message }: Problem,
): Promise<void> {
  await db.query(NOTE_PROBLEM, [accountId, location, jobId, code, message]);
}

const LOG_ERROR = /* sql */ `
  select gmb.log_error(account_id => $1, code => $2, message => $3, context => '{}')
  limit 1`;

/** Adds a line to the host's log: not to be repeated. */
export async function logError(db: Queryable, accountId: string, { code, message }: Problem): Promise<void> {
  await db.query(LOG_ERROR, [accountId, code, message]);
}

const RECORD_SUCCESS = /* sql */ `
  select gmb.record_success(account_id => $1, sync_type => $2, is_full => $3)
  limit 1`;

export async function recordSuccess(
  db: Queryable,
  accountId: string,
  syncType: SyncType,
  isFull: boolean,
): Promise<void> {
  await db.query(RECORD_SUCCESS, [accountId, syncType, isFull]);
}

async function count(db: Queryable, sql: string, values: unknown[]): Promise<number> {
  const { rows } = await db.query<{ written: number }>(sql, values);
  return rows[0]?.written ?? 0;
}

import {
  done,
  JobTimeoutError,
  MINUTE,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
  skipped,
  type JobContext,
  type JobHandler,
  type Outcome,
} from '@outbox/core';
import type { GoogleClient } from './google-client.ts';
import { REFUSED } from './google-errors.ts';
import type { gmbSync, SyncType } from './job.ts';
import { findGoogleName, syncLocations, type LocationsRead } from './locations.ts';
import { syncReviews, type ReviewsRead } from './reviews.ts';
import * as store from './store.ts';
import type { Account } from './store.ts';
import type { Sync } from './sync.ts';
import { Access, isRefused } from './tokens.ts';

/** Milliseconds. */
export interface GmbLimits {
  /** An incremental sync that takes longer has failed: it asks for little, so something hangs. */
  incrementalMs: number;
  /** After so long a run that got somewhere leaves the rest to the next one. Shorter than what it may take. */
  portionMs: Record<SyncType, number>;
}

export interface GmbDependencies {
  google: GoogleClient;
  gmbLimits: GmbLimits;
}

export const GMB_LIMITS: GmbLimits = {
  incrementalMs: 45 * SECOND,
  portionMs: { incremental: 40 * SECOND, full: 9 * MINUTE },
};

type Context = JobContext & GmbDependencies;

export const handleGmbSync: JobHandler<typeof gmbSync, GmbDependencies> = async ({ accountId, syncType }, context) => {
  const account = await store.findAccount(context.db, accountId);
  if (!account) return skipped('account_gone');
  if (!account.isActive) return skipped('account_inactive');

  const mode = account.fullSyncedAt === null ? 'full' : syncType;
  const work = () => syncAccount(account, { syncType, mode }, context);
  return mode === 'full' ? work() : withinLimit(context.gmbLimits.incrementalMs, work);
};

async function syncAccount(
  account: Account,
  { syncType, mode }: { syncType: SyncType; mode: SyncType },
  context: Context,
): Promise<Outcome> {
  const untilMs = performance.now() + context.gmbLimits.portionMs[mode];
  const { google } = context;
  const access = new Access(account.id, google, context);
  const googleName = await findGoogleName(account, { access, google, context });
  const sync: Sync = { accountId: account.id, googleName, mode, access, google, context };
  const locations = await syncLocations(sync);
  const reviews = await syncAllReviews(sync, locations.names, untilMs);

  return context.complete(async (tx) => {
    if (locations.unreadable > 0) await store.logError(tx, account.id, unreadableLocations(locations));
    await store.recordSuccess(tx, account.id, syncType, mode === 'full');
    const progress = await store.listProgress(tx, account.id, context.jobId);
    const problems = progress.flatMap(({ name, problem }) => (problem === null ? [] : [{ location: name, problem }]));
    return done(resultOf(mode, locations, reviews, problems));
  });
}

/** More failures in a row say that Google is in trouble, not one location. */
const MOST_FAILURES = 3;

/**
 * The reviews of all locations that this job is not through with yet. One location that cannot be read does not keep the
 * rest waiting: refused for good, it is noted and passed over; else one error is thrown at the end, and the next attempt
 * tries those that are left.
 */
async function syncAllReviews(sync: Sync, names: string[], untilMs: number): Promise<ReviewsRead> {
  const { accountId, context } = sync;
  const progress = new Map(
    (await store.listProgress(context.db, accountId, context.jobId)).map((each) => [each.name, each]),
  );
  const left = names.filter((name) => !progress.get(name)?.isDone);
  const counts: ReviewsRead = { read: 0, written: 0, deleted: 0 };
  const failures: unknown[] = [];
  let failuresInARow = 0;
  let through = 0;
  for (const [position, name] of left.entries()) {
    if (through > 0 && performance.now() > untilMs) {
      throw new PutOffError(
        `${left.length - position} locations of account ${accountId} are left for the next run.`,
        0,
      );
    }
    try {
      add(counts, await syncReviews(sync, name, progress.get(name)?.reviewsUntil ?? null));
    } catch (error) {
      context.signal.throwIfAborted();
      if (error instanceof ProviderUnavailableError) {
        failures.push(error);
        failuresInARow += 1;
        if (failuresInARow >= MOST_FAILURES) break;
        continue;
      }
      if (!isRefused(error, REFUSED.permission, REFUSED.missing, REFUSED.precondition)) throw error;
      await store.noteProblem(context.db, accountId, context.jobId, name, error);
    }
    failuresInARow = 0;
    through += 1;
    context.progress({ locations: names.length - left.length + position + 1, of: names.length, reviews: counts.read });
  }
  if (failures.length > 0) throw failures[0];
  return counts;
}

/** Not now: the job comes back at once, behind others that wait, and no attempt is spent. */
class PutOffError extends RateLimitedError {}

function add(counts: ReviewsRead, { read, written, deleted }: ReviewsRead): void {
  counts.read += read;
  counts.written += written;
  counts.deleted += deleted;
}

function unreadableLocations({ unreadable }: LocationsRead): store.Problem {
  return {
    code: 'unreadable_locations',
    message: `${unreadable} locations cannot be read; none is taken for deleted before the next full sync.`,
  };
}

/** Of this run: what earlier runs of a large account read is in the tables, and not counted again. */
function resultOf(
  mode: SyncType,
  { names, written, deleted, unreadable }: LocationsRead,
  reviews: ReviewsRead,
  problems: { location: string; problem: string }[],
): Record<string, unknown> {
  return { mode, locations: { listed: names.length, written, deleted, unreadable }, reviews, problems };
}

async function withinLimit<T>(limitMs: number, work: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new JobTimeoutError(`An incremental sync ran longer than ${limitMs} ms.`)),
      limitMs,
    );
  });
  try {
    // Once the run has ended, every call of its context throws: what goes on here comes to nothing.
    return await Promise.race([work(), limit]);
  } finally {
    clearTimeout(timer);
  }
}

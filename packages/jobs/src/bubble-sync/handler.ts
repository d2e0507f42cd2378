import {
  assertNever,
  done,
  PermanentError,
  ProviderUnavailableError,
  SECOND,
  skipped,
  type JobContext,
  type JobHandler,
} from '@outbox/core';
import { BUBBLE_REFUSED, type BubbleClient } from './bubble-client.ts';
import type { bubbleUserSync } from './job.ts';
import * as store from './store.ts';
import type { BubbleUser } from './store.ts';

export interface BubbleDependencies {
  bubble: BubbleClient;
}

type Context = JobContext & BubbleDependencies;

/** Longer than the client's own deadline (BUBBLE_TIMEOUT_MS), whose error says more. */
const CREATE_TIMEOUT_MS = 12 * SECOND;

/** A stored id that Bubble lost, then the one that is found or made for it. More would be a Bubble that contradicts itself. */
const MOST_ROUNDS = 3;

export const handleBubbleUserSync: JobHandler<typeof bubbleUserSync, BubbleDependencies> = async (
  { userId },
  context,
) => {
  await settleOpenCreates(userId, context);
  const copy = await bringToBubble(userId, context);
  switch (copy.kind) {
    case 'deleted':
      return skipped('user_deleted');
    case 'refused':
      return skipped('create_refused_by_a_person');
    case 'created':
    case 'updated':
      return context.complete(async (tx) => {
        const result = { bubbleId: copy.bubbleId, action: copy.kind };
        return (await store.recordSync(tx, userId, copy.bubbleId)) ? done(result) : skipped('user_deleted', result);
      });
    default:
      return assertNever(copy);
  }
};

type Copy =
  | { kind: 'created' | 'updated'; bubbleId: string }
  /** The user is gone; what Bubble has of it is left alone. */
  | { kind: 'deleted' }
  /** A person said that a create which nobody could tell did not happen and is not to happen. */
  | { kind: 'refused' };

/** A create that an attempt before this one was making when it ended. Until it is settled, nothing else happens. */
async function settleOpenCreates(userId: string, context: Context): Promise<void> {
  for (const key of await store.listOpenCreates(context.db, userId)) {
    await context.settle({ key, ...howToFind(userId, context.bubble) });
  }
}

/**
 * Updates the thing we know of, else the one Bubble finds, else creates one. The user is read again once it is known which:
 * looking up takes time, and what is written is the latest state. A thing that Bubble has lost is replaced.
 */
async function bringToBubble(userId: string, context: Context): Promise<Copy> {
  let lost: string | undefined;
  for (let round = 1; round <= MOST_ROUNDS; round += 1) {
    const user = await store.findUser(context.db, userId);
    if (!user) return { kind: 'deleted' };
    const known = lost === undefined ? user.bubbleId : null;
    const found = known ?? (await find(user, context));

    const latest = await store.findUser(context.db, userId);
    if (!latest) return { kind: 'deleted' };
    const target: Target =
      found === undefined ? await create(latest, lost, context) : { kind: 'exists', bubbleId: found };
    if (target.kind !== 'exists') return target;

    const { bubbleId } = target;
    if (await update(bubbleId, latest, context)) return { kind: 'updated', bubbleId };
    lost = bubbleId;
  }
  throw new ProviderUnavailableError(`Bubble finds user ${userId} and says it has no such thing.`, {
    ambiguous: false,
  });
}

function find(user: BubbleUser, { call, bubble }: Context): Promise<string | undefined> {
  return call((signal) => bubble.find(user, signal));
}

function update(bubbleId: string, { id, fields }: BubbleUser, { call, bubble }: Context): Promise<boolean> {
  return call((signal) => bubble.update(bubbleId, id, fields, signal));
}

/** `exists`: it is there, perhaps with an older state of the user. */
type Target = { kind: 'exists'; bubbleId: string } | { kind: 'created'; bubbleId: string } | { kind: 'refused' };

/**
 * Creates the user in Bubble, once: for all jobs and attempts there is one create of a user, and one more for each thing
 * that Bubble has `lost` since.
 */
async function create(user: BubbleUser, lost: string | undefined, context: Context): Promise<Target> {
  const { bubble } = context;
  let isOurs = false;
  const outcome = await context
    .effect({
      key: `bubble_user:${user.id}:${lost === undefined ? 'first' : `after:${lost}`}`,
      request: { userId: user.id, ...(lost === undefined ? {} : { lost }) },
      call: async (signal) => {
        const bubbleId = await bubble.create(user.id, user.fields, signal);
        isOurs = true;
        return bubbleId;
      },
      ...howToFind(user.id, bubble),
    })
    .catch((error: unknown) => existingInstead(error, user, context));

  switch (outcome.state) {
    case 'confirmed':
      if (outcome.reference.startsWith(RESOLVED_BY_HAND)) throw notFoundThough(user);
      return { kind: isOurs ? 'created' : 'exists', bubbleId: outcome.reference };
    case 'rejected':
      return { kind: 'refused' };
    case 'unknown':
      throw new PermanentError(
        `Nobody can tell whether Bubble has created user ${user.id}. Look there, then resolve the effect.`,
        { code: 'create_unknown' },
      );
    default:
      return assertNever(outcome);
  }
}

/** Reference of a create that a person has confirmed: it does not say what Bubble calls the thing. */
const RESOLVED_BY_HAND = 'resolved:';

function notFoundThough(user: BubbleUser): PermanentError {
  return new PermanentError(
    `A person has confirmed that Bubble created user ${user.id}, but Bubble finds neither its id nor its email. Write the ` +
      `thing's id to the user, or put our id into the thing.`,
    { code: 'create_confirmed_but_not_found' },
  );
}

/** Somebody may have signed up in Bubble with this email since we looked: then there is something to update. */
async function existingInstead(error: unknown, user: BubbleUser, context: Context) {
  if (!(error instanceof PermanentError) || error.code !== BUBBLE_REFUSED) throw error;
  const bubbleId = await find(user, context);
  if (bubbleId === undefined) throw error;
  return { state: 'confirmed' as const, reference: bubbleId };
}

/** A create has put our id into the thing. By email alone another's thing could be taken for it. */
function howToFind(userId: string, bubble: BubbleClient) {
  return {
    provider: 'bubble',
    lookUp: (_request: Record<string, unknown>, _startedAt: Date, signal: AbortSignal) =>
      bubble.find({ id: userId, email: null }, signal),
    timeoutMs: CREATE_TIMEOUT_MS,
  };
}

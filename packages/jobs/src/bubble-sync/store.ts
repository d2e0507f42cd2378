import type { Queryable } from '@outbox/core';
import { z } from 'zod';

export interface BubbleUser {
  id: string;
  email: string | null;
  /** Its id in Bubble, once it has one. */
  bubbleId: string | null;
  /** What Bubble is to have of it, by the names Bubble has for the fields. */
  fields: Record<string, unknown>;
}

const FIND_USER = /* sql */ `
  select user_id as id, email, bubble_id as "bubbleId", fields
  from bubble.user_source
  where user_id = $1
  limit 1`;

const userRow = z.object({
  id: z.uuid(),
  email: z.string().nullable(),
  bubbleId: z.string().nullable(),
  fields: z.record(z.string(), z.unknown()),
});

/** The user as it stands now; undefined when it was deleted. */
export async function findUser(db: Queryable, userId: string): Promise<BubbleUser | undefined> {
  const { rows } = await db.query(FIND_USER, [userId]);
  return rows[0] === undefined ? undefined : userRow.parse(rows[0]);
}

/** A user is created once, and again each time Bubble has lost it: a person cannot do that so often. */
const MOST_CREATES = 100;

const LIST_OPEN_CREATES = /* sql */ `
  select key
  from bubble.creates
  where key >= 'bubble_user:' || $1::uuid || ':' and key < 'bubble_user:' || $1::uuid || ':~' and state = 'started'
  order by key
  limit ${MOST_CREATES}`;

/** Keys of creates of this user that may or may not have been carried out. */
export async function listOpenCreates(db: Queryable, userId: string): Promise<string[]> {
  const { rows } = await db.query<{ key: string }>(LIST_OPEN_CREATES, [userId]);
  return rows.map(({ key }) => key);
}

const RECORD_SYNC = /* sql */ `
  select bubble.record_sync(user_id => $1, bubble_id => $2) as recorded
  limit 1`;

/** Writes back the user's id in Bubble; false when the user was deleted meanwhile. */
export async function recordSync(db: Queryable, userId: string, bubbleId: string): Promise<boolean> {
  const { rows } = await db.query<{ recorded: boolean }>(RECORD_SYNC, [userId, bubbleId]);
  return rows[0]?.recorded ?? false;
}

import { randomUUID } from 'node:crypto';
import type { Queryable } from '@outbox/core';

/** Rows of the host application for tests; only tests import this. */
export interface UserWish {
  email?: string;
  firstName?: string;
  bubbleId?: string;
}

/** Signs a user up, as the application does, and returns its id. */
export async function signUp(db: Queryable, wish: UserWish = {}): Promise<string> {
  const id = randomUUID();
  await db.query(
    'insert into public.users (id, email, first_name, last_name, phone, bubble_id) values ($1, $2, $3, $4, $5, $6)',
    [id, wish.email ?? `${id}@example.com`, wish.firstName ?? 'Ada', 'Lovelace', null, wish.bubbleId ?? null],
  );
  return id;
}

export async function rename(db: Queryable, userId: string, firstName: string): Promise<void> {
  await db.query('update public.users set first_name = $2 where id = $1', [userId, firstName]);
}

/** A row of `outbox.jobs` as a claim and a failed attempt, or an end, leave it. */
export async function leaveJob(
  db: Queryable,
  userId: string,
  state: 'active' | 'waiting for a retry' | 'completed' | 'skipped' | 'failed' | 'cancelled',
): Promise<void> {
  const claimed = `attempt = attempt + 1, holds_key = false, run = outbox.new_run(), started_at = clock_timestamp()`;
  const ended = `admitted = false, finished_at = clock_timestamp()`;
  const changes = {
    active: `${claimed}, state = 'active', locked_by = 'w', locked_until = clock_timestamp() + interval '1 minute'`,
    'waiting for a retry': `${claimed}, state = 'published', last_error = 'Bubble answered 503', scheduled_at = clock_timestamp() + interval '1 minute'`,
    completed: `${claimed}, ${ended}, state = 'completed'`,
    skipped: `${claimed}, ${ended}, state = 'skipped', reason = 'user_deleted'`,
    failed: `${claimed}, ${ended}, state = 'failed', last_error = 'Bubble refused the user (400)', reason = 'bubble_400'`,
    cancelled: `${ended}, holds_key = false, state = 'cancelled', reason = 'user_deleted'`,
  };
  await db.query(
    `with deleted as (delete from outbox.ready r using outbox.jobs j where j.id = r.job_id and j.key = $1)
     update outbox.jobs set ${changes[state]} where key = $1 and finished_at is null`,
    [userId],
  );
}

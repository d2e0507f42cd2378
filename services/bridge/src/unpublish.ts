import type { Queryable } from '@outbox/core';

export interface Published {
  id: string;
  generation: number;
}

const UNPUBLISH = /* sql */ `
  select outbox.unpublish(ids => $1, generations => $2, remove => $3)::int as returned
  limit 1`;

/**
 * Takes rows back that are still in the generation that was looked for, and published; returns how many. With `remove`
 * what BullMQ still has of their old life is taken out of it.
 */
export async function unpublish(db: Queryable, rows: Published[], { remove = false } = {}): Promise<number> {
  if (rows.length === 0) return 0;
  const { rows: answer } = await db.query<{ returned: number }>(UNPUBLISH, [
    rows.map(({ id }) => id),
    rows.map(({ generation }) => generation),
    remove,
  ]);
  return answer[0]?.returned ?? 0;
}

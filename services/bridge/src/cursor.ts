/**
 * Where a walk through the open rows, by due time, goes on: behind this row. The instant is Postgres' own text, since a
 * Date has no microseconds.
 */
export interface Cursor {
  scheduledAt: string;
  id: string;
}

export const BEGINNING: Cursor = { scheduledAt: '-infinity', id: '0' };

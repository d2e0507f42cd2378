import { mustBeNone, type Finding, type World } from './finding.ts';

/** The same Idempotency-Key is the same row, however often and through whatever trouble it was sent. */
export async function findRequests({ pool, business }: World): Promise<Finding[]> {
  const { rows } = await pool.query<{ key: string; row: string }>(ROWS_OF_KEYS);
  const rowsOf = new Map<string, Set<string>>();
  for (const { key, row } of rows) rowsOf.set(key, (rowsOf.get(key) ?? new Set()).add(row));
  const answered = business.requests.filter((request) => request.rows.size > 0);
  return [
    mustBeNone(
      'requests answered with two rows',
      answered.filter((request) => request.rows.size > 1).map(({ key, rows }) => `${key}: ${[...rows].join(', ')}`),
    ),
    mustBeNone(
      'idempotency keys of two rows',
      [...rowsOf].filter(([, ids]) => ids.size > 1).map(([key, ids]) => `${key}: ${[...ids].join(', ')}`),
    ),
    mustBeNone(
      'requests answered with a row that is not there',
      answered.filter(({ key, rows }) => [...rows].some((id) => !rowsOf.get(key)?.has(id))).map(({ key }) => key),
    ),
  ];
}

const ROWS_OF_KEYS = /* sql */ `
  select idempotency_key as key, id::text as row from outbox.jobs where idempotency_key is not null
  union
  select idempotency_key, job_id::text from outbox.idempotency_keys
  limit 10000000`;

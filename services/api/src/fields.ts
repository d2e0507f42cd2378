import { z } from 'zod';
import { invalidRequest } from './problem.ts';

const MAX_PRIORITY = 1_000_000;
const MAX_ATTEMPTS = 100;
const priorityRule = `must be a whole number from -${MAX_PRIORITY} to ${MAX_PRIORITY}`;
const attemptsRule = `must be a whole number from 1 to ${MAX_ATTEMPTS}`;
const dateRule = 'must be a date and time with its offset, such as 2030-01-31T09:00:00Z';

/** Higher first. */
export const priority = z.int(priorityRule).min(-MAX_PRIORITY, priorityRule).max(MAX_PRIORITY, priorityRule);

export const maxAttempts = z.int(attemptsRule).min(1, attemptsRule).max(MAX_ATTEMPTS, attemptsRule);

/** Ids of any version: owners and imported rows bring their own. */
export const anyUuid = z.guid('must be a uuid').transform((uuid) => uuid.toLowerCase());

export const instant = z.iso.datetime({ offset: true, error: dateRule }).transform((text) => new Date(text));

/** A whole number from 1 to `max`, written in a query string. */
export function pageSize(max: number) {
  const rule = `must be a whole number from 1 to ${max}`;
  return z
    .string(rule)
    .regex(/^\d{1,4}$/, rule)
    .transform(Number)
    .pipe(z.number().min(1, rule).max(max, rule));
}

/** The uuid of a path. */
export function parseId(text: string): string {
  const id = anyUuid.safeParse(text);
  if (!id.success) throw invalidRequest([{ field: 'id', message: 'must be a uuid' }]);
  return id.data;
}

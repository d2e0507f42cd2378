import { createHash } from 'node:crypto';
import pg from 'pg';

/** More texts than this process has; statements that somebody composes anew each time must not fill the server's memory. */
const MOST_STATEMENTS = 200;

const names = new Map<string, string>();

/** One name for the same text, in all processes; undefined when this one has sent too many of them. */
function nameOf(text: string): string | undefined {
  const known = names.get(text);
  if (known !== undefined || names.size >= MOST_STATEMENTS) return known;
  const name = `outbox_${createHash('sha256').update(text).digest('hex').slice(0, 32)}`;
  names.set(text, name);
  return name;
}

/**
 * A client that prepares every statement with values at its first use: after that a connection neither parses nor, as far
 * as Postgres thinks fit (`plan_cache_mode`), plans it again, which takes longer than most of our statements run.
 */
export class PreparingClient extends pg.Client {}

const send = Reflect.get(pg.Client.prototype, 'query') as (...args: unknown[]) => unknown;

Object.defineProperty(PreparingClient.prototype, 'query', {
  value(this: pg.Client, statement: unknown, ...rest: unknown[]): unknown {
    const isPreparable = typeof statement === 'string' && Array.isArray(rest[0]) && rest[0].length > 0;
    const prepared = isPreparable ? { name: nameOf(statement), text: statement } : statement;
    return Reflect.apply(send, this, [prepared, ...rest]);
  },
});

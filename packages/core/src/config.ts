import { z } from 'zod';
import { DAY, HOUR, MINUTE, SECOND } from './durations.ts';
import { ConfigError } from './errors.ts';

/**
 * Parses the environment with a service's schema. Blank counts as unset. Every wrong variable is named in one error, so
 * a person mends them all at once; a wrong value never becomes the default. Pure: nothing else reads `process.env`.
 */
export function loadConfig<Schema extends z.ZodType>(
  schema: Schema,
  env: Record<string, string | undefined>,
): Readonly<z.output<Schema>> {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value.trim() !== ''));
  const parsed = schema.safeParse(set);
  if (!parsed.success) throw new ConfigError(describeIssues(parsed.error));
  return Object.freeze(parsed.data);
}

function describeIssues(error: z.ZodError): string {
  return error.issues.map((issue) => `${issue.path.join('.') || 'settings'}: ${issue.message}`).join('; ');
}

/** `true`, `false`, `1`, `0`, `yes`, `no`; nothing else. */
export const envBoolean = z
  .enum(['true', 'false', '1', '0', 'yes', 'no'], { error: 'must be true or false' })
  .transform((value) => ['true', '1', 'yes'].includes(value));

/** A whole number between `min` and `max`, both included. */
export function envInteger(min: number, max: number) {
  const message = `must be a whole number from ${min} to ${max}`;
  return z
    .string()
    .regex(/^-?\d+$/, message)
    .transform(Number)
    .pipe(z.number().int(message).min(min, message).max(max, message));
}

export const envPort = envInteger(0, 65_535);

const UNITS = { ms: 1, s: SECOND, m: MINUTE, h: HOUR, d: DAY } as const;

/** A duration with its unit, such as `500ms`, `30s`, `72h`; gives milliseconds. */
export function envDuration(minMs: number, maxMs: number) {
  const message = `must be a duration such as 30s or 72h, from ${minMs} ms to ${maxMs} ms`;
  return z
    .string()
    .regex(/^\d+(ms|s|m|h|d)$/, message)
    .transform((text) => Number.parseInt(text, 10) * UNITS[text.replace(/^\d+/, '') as keyof typeof UNITS])
    .pipe(z.number().min(minMs, message).max(maxMs, message));
}

const postgresUrl = z
  .url({ protocol: /^postgres(ql)?$/, error: 'must look like postgres://user:password@host:5432/database' })
  .describe('Where Postgres is');

const redisUrl = z.url({ protocol: /^rediss?$/, error: 'must look like redis://host:6379' });

/**
 * Settings every process that touches Postgres and BullMQ has in common. Services extend it with their own and pass the
 * result through `withQueueBackend`.
 */
export const sharedSettings = z.object({
  DATABASE_URL: z
    .string({ error: 'is missing: set it to postgres://user:password@host:5432/database' })
    .pipe(postgresUrl)
    .describe('Postgres with the outbox schema, e.g. postgres://user:password@host:5432/database'),
  DATABASE_ROLE: z
    .string()
    .regex(/^[a-z_][a-z0-9_]*$/, 'must be a plain role name')
    .optional()
    .describe('Role to take after login (set role); blank keeps the login role'),
  DATABASE_POOLED: envBoolean
    .default(false)
    .describe(
      "True behind a transaction pooler (PgBouncer, Supavisor's port 6543): nothing is prepared; set WAKE_UP=poll too",
    ),
  OUTBOX_INSTANCE: z
    .string({ error: 'is missing: name this installation, e.g. production; it must match outbox.meta' })
    .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/i, 'must be letters, digits, dots, dashes or underscores')
    .describe('Name of this installation; must equal the one in outbox.meta, so that a copied database does not act'),
  QUEUE_BACKEND: z
    .enum(['redis', 'postgres'], { error: 'must be redis or postgres' })
    .default('redis')
    .describe("Where BullMQ keeps its jobs: redis, or postgres (BullMQ's PostgreSQL backend)"),
  REDIS_URL: redisUrl.optional().describe('Redis or Valkey for BullMQ, e.g. redis://host:6379'),
  QUEUE_PREFIX: z
    .string()
    .regex(/^[a-z0-9-]+$/i, 'must be letters, digits or dashes')
    .default('outbox')
    .describe('Prefix of every key in Redis'),
  LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'], {
      error: 'must be trace, debug, info, warn, error or fatal',
    })
    .default('info')
    .describe('Least severe log line that is written'),
});

export type SharedSettings = z.output<typeof sharedSettings>;

/** Adds the rule that the Redis backend needs a `REDIS_URL`. */
export function withQueueBackend<Schema extends z.ZodType<SharedSettings>>(schema: Schema): Schema {
  return schema.refine((settings) => settings.QUEUE_BACKEND === 'postgres' || settings.REDIS_URL !== undefined, {
    when: () => true, // also when another setting is wrong: all are named at once
    path: ['REDIS_URL'],
    error: 'is missing: set it to redis://host:6379, or set QUEUE_BACKEND=postgres',
  });
}

import type { z } from 'zod';
import { MINUTE, SECOND } from './durations.ts';

/**
 * Which second job of the same name and key is refused: `waiting`, while the first has not been claimed yet; `open`,
 * until the first has ended; `none`, never.
 */
export type Uniqueness = 'waiting' | 'open' | 'none';

/** Wait before attempt n + 1: `delayMs * 2^(n - 1)`, plus up to `jitter` (0 to 1) of that. Jitter only ever adds. */
export interface Backoff {
  type: 'exponential' | 'fixed';
  delayMs: number;
  jitter: number;
}

/** Durations that differ between production and a demonstration that should not take three days. Milliseconds. */
export interface Timings {
  /** From the enqueue to the first run, unless the caller names an instant. */
  delayMs: number;
  /** Wait after the first failed attempt. */
  backoffMs: number;
}

/** Which set of timings `migrate` writes into `outbox.job_types`. */
export type TimingsName = 'production' | 'demo';

/**
 * Somebody else's API that jobs call. All workers together obey its limit and its circuit breaker, which are kept in
 * Postgres (`outbox.providers`, `outbox.breakers`).
 */
export interface ProviderDefinition {
  readonly name: string;
  /** Calls a minute, of all tenants together and evenly spaced; undefined means no limit of our own. */
  readonly requestsPerMinute?: number;
  /** One line for people. */
  readonly description: string;
}

export interface JobDefinition<Name extends string = string, Payload extends z.ZodType = z.ZodType> {
  /** Unique over all families; the name of the BullMQ job and of the row. */
  readonly name: Name;
  readonly family: string;
  readonly queue: string;
  /** Ids, not copies: the handler reads the world again. It changes by addition only. */
  readonly payload: Payload;
  /** The business key: what `unique` compares, and what people search for. */
  readonly key: (payload: z.output<Payload>) => string | undefined;
  /** Jobs of one serial key never run at the same time, whatever their names. */
  serialKey?(payload: z.output<Payload>): string;
  /**
   * SQL function (user_id uuid, payload jsonb) that returns true when what the payload names is that user's, for the role of
   * the API. Undefined: no user may ask for this job through the API, only services may.
   */
  readonly ownerCheck?: `${string}.${string}`;
  /** Whom it calls; undefined when it calls nobody, or nobody who could be down. */
  readonly provider?: ProviderDefinition;
  /**
   * Field of the payload that names the tenant of the provider (an account, an integration): breakers and limits then hold
   * one tenant alone. Undefined when all jobs call as one and the same tenant.
   */
  readonly tenantField?: string;
  /** Most jobs of its queue that run at the same time in all workers together; undefined means no such limit. */
  readonly concurrency?: number;
  readonly timings: Record<TimingsName, Timings>;
  readonly unique: Uniqueness;
  /** Attempts of a row that names none, the first included. */
  readonly attempts: number;
  readonly backoff: Omit<Backoff, 'delayMs'>;
  /** After so many milliseconds the handler's signal aborts and the attempt has failed. */
  readonly timeoutMs: number;
  /** Days a finished row is kept; `failed` ones may be kept longer. */
  readonly retentionDays: number;
  readonly failedRetentionDays: number;
  /** True when rows of this queue are ordered by priority (higher first). */
  readonly prioritized: boolean;
  /** One line for people: what this job does. */
  readonly description: string;
}

type Defaulted = 'backoff' | 'timeoutMs' | 'failedRetentionDays' | 'prioritized';

/**
 * Declares a kind of job. Everything that can be said about it without running it stands here: the bridge, the API, the
 * migrator and the worker all read this one object. Importing a definition starts nothing.
 */
export function defineJob<const Name extends string, Payload extends z.ZodType>(
  definition: Omit<JobDefinition<Name, Payload>, Defaulted> & Partial<Pick<JobDefinition, Defaulted>>,
): JobDefinition<Name, Payload> {
  const defaults: Pick<JobDefinition, Defaulted> = {
    backoff: { type: 'exponential', jitter: 0.25 },
    timeoutMs: 45 * SECOND,
    failedRetentionDays: definition.retentionDays,
    prioritized: false,
  };
  return Object.freeze({ ...defaults, ...definition });
}

export type PayloadOf<D extends JobDefinition> = z.output<D['payload']>;

/** The seeds' first wait; 2 and 4 minutes follow from doubling. */
export const FIRST_BACKOFF_MS = 1 * MINUTE;

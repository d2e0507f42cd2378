import {
  EffectRejectedError,
  enqueueDefined,
  withTransaction,
  type EffectOutcome,
  type EffectRequest,
  type JobContext,
  type JobDefinition,
  type JobTransaction,
  type Pool,
  type PoolClient,
} from '@outbox/core';
import { captureLogs } from './capture-logs.ts';

export interface HandlerContextOptions<Dependencies extends object> {
  /** Row id under which the ledger knows the effects. Default: 1. */
  jobId?: string;
  /** Default: 0. */
  lateMs?: number;
  /** Gets every value the handler reports. */
  onProgress?: (value: unknown) => void;
  dependencies: Dependencies;
}

/**
 * What a handler gets, for the tests of handlers alone: no row is claimed, fenced or ended, and nothing is repeated.
 * `effect` makes the call at once, remembers how it ended by its key, and writes that into the ledger, where the SQL of
 * a family reads it; what the call throws is thrown and not remembered, so running the handler again with the same
 * context is its next attempt. `complete` is one transaction on `pool`.
 */
export function handlerContext<Dependencies extends object>(
  pool: Pool,
  { jobId = '1', lateMs = 0, onProgress = () => undefined, dependencies }: HandlerContextOptions<Dependencies>,
): JobContext & Dependencies {
  const outcomes = new Map<string, EffectOutcome>();
  const { signal } = new AbortController();
  const context: JobContext = {
    jobId,
    attempt: 1,
    maxAttempts: 3,
    lateMs,
    signal,
    log: captureLogs().log,
    db: pool,
    call: (request) => request(signal),
    effect: async (request) => {
      const known = outcomes.get(request.key);
      if (known) return known;
      const outcome = await callOnce(request, signal);
      outcomes.set(request.key, outcome);
      await recordEffect(pool, jobId, request, outcome);
      return outcome;
    },
    settle: ({ key }) => Promise.resolve(outcomes.get(key)),
    complete: (write) =>
      withTransaction(pool, async (client) => {
        await client.query("select set_config('outbox.current_job', $1, true)", [jobId]);
        return write(jobTransaction(client));
      }),
    progress: onProgress,
  };
  return { ...context, ...dependencies };
}

async function callOnce({ call }: EffectRequest, signal: AbortSignal): Promise<EffectOutcome> {
  try {
    return { state: 'confirmed', reference: await call(signal) };
  } catch (error) {
    if (error instanceof EffectRejectedError) return { state: 'rejected', reason: error.code };
    throw error;
  }
}

const RECORD_EFFECT = /* sql */ `
  insert into outbox.effects (
    key, job_id, run, provider, state, request, reference, reason, deadline_at, settled_at
  )
  values ($1, $2, 1, $3, $4, $5, $6, $7, clock_timestamp(), clock_timestamp())`;

async function recordEffect(pool: Pool, jobId: string, request: EffectRequest, outcome: EffectOutcome): Promise<void> {
  await pool.query(RECORD_EFFECT, [
    request.key,
    jobId,
    request.provider,
    outcome.state,
    JSON.stringify(request.request),
    'reference' in outcome ? outcome.reference : null,
    'reason' in outcome ? outcome.reason : null,
  ]);
}

function jobTransaction(client: PoolClient): JobTransaction {
  return {
    query: (text, values) => client.query(text, values),
    enqueue: async (definition: JobDefinition, request) => {
      const { id } = await enqueueDefined(client, definition, request);
      return id;
    },
  };
}

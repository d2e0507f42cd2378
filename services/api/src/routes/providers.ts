import { maskPhones, pauseProvider, resumeProvider, type Pool, type Queryable } from '@outbox/core';
import express, { type Router } from 'express';
import { z } from 'zod';
import { actorOf } from '../auth.ts';
import { ProblemError } from '../problem.ts';
import { objectRule, optionalBody, sentence } from '../request-body.ts';

/** Whom jobs call, and what keeps them from it. */
interface ProviderRecord {
  name: string;
  description: string;
  pausedAt: Date | null;
  pausedBy: string | null;
  reason: string | null;
  /** Null when there is no limit. */
  requestsPerMinute: number | null;
  breakers: BreakerRecord[];
}

interface BreakerRecord {
  /** Null: the provider as a whole. */
  tenant: string | null;
  state: string;
  consecutiveFailures: number;
  openedAt: Date | null;
  /** When the next job may find out whether the provider is back. */
  probeAt: Date | null;
  /** Until when the provider asked us to wait. */
  limitedUntil: Date | null;
  lastError: string | null;
}

/**
 * `GET /api/providers`, and pausing and resuming one. Workers ask the same tables before each job: while a provider is
 * paused, no job calls it, and none spends an attempt.
 */
export function providerRoutes({ db }: { db: Pool }): Router {
  const router = express.Router();

  router.get('/api/providers', async (_request, response) => {
    response.json({ providers: await listProviders(db) });
  });

  router.post('/api/providers/:name/pause', async (request, response) => {
    const { reason } = pauseBody.parse(optionalBody(request));
    const { name } = await requireProvider(db, request.params.name);
    const changed = await pauseProvider(db, actorOf(response), name, reason);
    response.json({ provider: await requireProvider(db, name), changed });
  });

  router.post('/api/providers/:name/resume', async (request, response) => {
    resumeBody.parse(optionalBody(request));
    const { name } = await requireProvider(db, request.params.name);
    const changed = await resumeProvider(db, actorOf(response), name);
    response.json({ provider: await requireProvider(db, name), changed });
  });

  return router;
}

const pauseBody = z.strictObject({ reason: sentence(200).optional() }, objectRule);
const resumeBody = z.strictObject({}, objectRule);

const LIST_PROVIDERS = /* sql */ `
  select
    p.name, p.description, p.paused_at as "pausedAt", p.paused_by as "pausedBy", p.reason,
    coalesce(p.operator_requests_per_minute, p.requests_per_minute) as "requestsPerMinute"
  from outbox.providers p
  order by p.name
  limit 1000`;

/** A tenant that was in trouble once keeps its row; only those in trouble now are shown, and of each provider the first 100. */
const LIST_BREAKERS = /* sql */ `
  select
    b.provider, nullif(b.tenant, '') as tenant, b.state, b.consecutive_failures as "consecutiveFailures",
    b.opened_at as "openedAt", b.probe_at as "probeAt",
    case when b.limited_until > clock_timestamp() then b.limited_until end as "limitedUntil", b.last_error as "lastError"
  from outbox.providers p
  cross join lateral (
    select t.*
    from outbox.breakers t
    where t.provider = p.name
      and (t.state <> 'closed' or t.consecutive_failures > 0 or t.limited_until > clock_timestamp())
    order by t.tenant
    limit 100
  ) b
  order by b.provider, b.tenant`;

async function listProviders(db: Queryable): Promise<ProviderRecord[]> {
  const { rows: providers } = await db.query<Omit<ProviderRecord, 'breakers'>>(LIST_PROVIDERS);
  const { rows: breakers } = await db.query<BreakerRecord & { provider: string }>(LIST_BREAKERS);
  return providers.map((provider) => ({
    ...provider,
    breakers: breakers.filter((breaker) => breaker.provider === provider.name).map(toShow),
  }));
}

function toShow(row: BreakerRecord): BreakerRecord {
  const { tenant, state, consecutiveFailures, openedAt, probeAt, limitedUntil, lastError } = row;
  return { tenant, state, consecutiveFailures, openedAt, probeAt, limitedUntil, lastError: maskPhones(lastError) };
}

async function requireProvider(db: Queryable, name: string): Promise<ProviderRecord> {
  const provider = (await listProviders(db)).find((known) => known.name === name);
  if (!provider) throw new ProblemError('not-found', `There is no provider named "${name}".`);
  return provider;
}

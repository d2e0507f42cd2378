import type { Queryable } from '@outbox/core';
import type { Device } from './golioth-client.ts';

export type BegunRun =
  | { refusal: string }
  | {
      refusal: null;
      integrationId: string;
      /** When this attempt began, to the microsecond, as Postgres prints it. */
      startedAt: string;
    };

const BEGIN_RUN = /* sql */ `
  select refusal, integration_id as "integrationId", started_at::text as "startedAt"
  from golioth.begin_run(job_id => $1)
  limit 1`;

/** Notes the start and plans the next run; or says why there is nothing to do. Safe to repeat, at each attempt too. */
export async function beginRun(db: Queryable, jobId: string): Promise<BegunRun> {
  const { rows } = await db.query<BegunRun & Record<string, unknown>>(BEGIN_RUN, [jobId]);
  if (!rows[0]) throw new Error(`golioth.begin_run returned no row for job ${jobId}`);
  return rows[0];
}

/** What an integration says about its project. */
export interface Source {
  projectId: string | null;
  apiKey: string | null;
}

const FIND_SOURCE = /* sql */ `
  select project_id as "projectId", api_key as "apiKey"
  from golioth.sources
  where integration_id = $1
  limit 1`;

/** Undefined when the integration is gone, or is none of Golioth. */
export async function findSource(db: Queryable, integrationId: string): Promise<Source | undefined> {
  const { rows } = await db.query<Source & Record<string, unknown>>(FIND_SOURCE, [integrationId]);
  return rows[0];
}

const RECORD_DEVICES = /* sql */ `
  select golioth.record_devices(integration_id => $1, seen_at => $2, devices => $3)
  limit 1`;

/** Writes a page of devices. Safe to repeat; what a later sync has written stays. */
export async function recordDevices(
  db: Queryable,
  { integrationId, startedAt, devices }: { integrationId: string; startedAt: string; devices: Device[] },
): Promise<void> {
  await db.query(RECORD_DEVICES, [integrationId, startedAt, JSON.stringify(devices)]);
}

const RECORD_SYNC = /* sql */ `
  select golioth.record_sync(integration_id => $1, seen_at => $2, complete => $3)::int as missing
  limit 1`;

/** Ends a sync, and after a complete one marks what it did not see; returns how many are missing since now. */
export async function recordSync(
  db: Queryable,
  { integrationId, startedAt, complete }: { integrationId: string; startedAt: string; complete: boolean },
): Promise<number> {
  const { rows } = await db.query<{ missing: number }>(RECORD_SYNC, [integrationId, startedAt, complete]);
  return rows[0]?.missing ?? 0;
}

const RECORD_FAILURE = /* sql */ `
  select golioth.record_failure(integration_id => $1, started_at => $2, message => $3)
  limit 1`;

/** Shows the user of an integration what only they can mend, unless a later sync went well. Safe to repeat. */
export async function recordFailure(
  db: Queryable,
  { integrationId, startedAt, message }: { integrationId: string; startedAt: string; message: string },
): Promise<void> {
  await db.query(RECORD_FAILURE, [integrationId, startedAt, message]);
}

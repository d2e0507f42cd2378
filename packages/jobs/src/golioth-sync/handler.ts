import { done, PermanentError, skipped, type JobContext, type JobHandler } from '@outbox/core';
import { DEVICES_PER_PAGE, type ProjectAccess } from './golioth-client.ts';
import type { GoliothDependencies } from './golioth-settings.ts';
import type { syncDevices } from './job.ts';
import * as store from './store.ts';

type Context = JobContext & GoliothDependencies;

/** One attempt at one integration. */
interface Run {
  integrationId: string;
  startedAt: string;
}

export const handleSyncDevices: JobHandler<typeof syncDevices, GoliothDependencies> = async (_payload, context) => {
  const run = await store.beginRun(context.db, context.jobId);
  if (run.refusal !== null) return skipped(run.refusal);
  const source = await store.findSource(context.db, run.integrationId);
  if (source === undefined) return skipped('integration_not_found');

  const pass = await showing(run, context, () => readDevices(accessOf(source, run, context), run, context));
  return context.complete(async (tx) => {
    const missing = await store.recordSync(tx, { ...run, complete: pass.isComplete });
    return done({ devices: pass.seen.size, missing, complete: pass.isComplete });
  });
};

/** What only a person can mend is shown on the integration, where its owner looks. */
async function showing<T>(run: Run, { db }: Context, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof PermanentError) await store.recordFailure(db, { ...run, message: error.message });
    throw error;
  }
}

/** The integration's own key, or the installation's. */
function accessOf(source: store.Source, { integrationId }: Run, context: Context): ProjectAccess {
  const { projectId } = source;
  const apiKey = source.apiKey ?? context.golioth.apiKey;
  if (projectId !== null && apiKey !== undefined) return { projectId, apiKey };
  const lacks = projectId === null ? 'project' : 'API key';
  throw new PermanentError(`Integration ${integrationId} has no ${lacks} to read devices with. Enter it.`, {
    code: 'golioth_not_configured',
  });
}

interface Pass {
  /** Ids of the devices that were read. */
  seen: Set<string>;
  /** True when these are all that the project has: only then is what was not seen missing. */
  isComplete: boolean;
}

/** A million devices. Beyond it the answers make no sense, and a sync would never end. */
const MOST_PAGES = 10_000;

/**
 * Reads page after page and writes each at once. Devices that come or go meanwhile move the others across the pages, so
 * that one may be missed. That shows in the totals: all have to be the same, and as many as were seen.
 */
async function readDevices(access: ProjectAccess, run: Run, context: Context): Promise<Pass> {
  const seen = new Set<string>();
  const totals = new Set<number>();
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const { devices, total } = await context.call((signal) => context.golioth.client.listDevices(access, page, signal));
    await store.recordDevices(context.db, { ...run, devices });
    for (const { id } of devices) seen.add(id);
    totals.add(total);
    context.progress({ devices: seen.size, of: total });
    if (devices.length < DEVICES_PER_PAGE) return { seen, isComplete: totals.size === 1 && totals.has(seen.size) };
  }
  throw new PermanentError(`The devices of integration ${run.integrationId} do not end after ${MOST_PAGES} pages.`, {
    code: 'golioth_endless',
  });
}

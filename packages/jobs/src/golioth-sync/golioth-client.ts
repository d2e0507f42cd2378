import {
  PermanentError,
  ProviderUnavailableError,
  requestProvider,
  type OutboxError,
  type ProviderAnswer,
} from '@outbox/core';
import { z } from 'zod';

/** A project and the key that opens it. */
export interface ProjectAccess {
  projectId: string;
  apiKey: string;
}

/** A device as it is written down here; instants as Golioth sent them (RFC 3339). */
export interface Device {
  id: string;
  name: string | null;
  hardwareIds: string[];
  tagIds: string[];
  blueprintId: string | null;
  cohortId: string | null;
  enabled: boolean;
  createdAt: string | null;
  updatedAt: string | null;
  lastReportAt: string | null;
  lastSeenOnlineAt: string | null;
}

export interface DevicePage {
  devices: Device[];
  /** How many the project has in all, as of this page. */
  total: number;
}

/**
 * Reads devices. Throws `RateLimitedError` (429), `PermanentError` (the key is refused, the project is gone) and
 * `ProviderUnavailableError` (anything else, an answer nobody can read included). No error carries the key or an answer.
 */
export interface GoliothClient {
  /** Page 0 is the first. A page that is not full is the last. */
  listDevices(access: ProjectAccess, page: number, signal: AbortSignal): Promise<DevicePage>;
}

export interface GoliothSettings {
  /** Scheme, host and path before /v1, without a slash at the end. */
  baseUrl: string;
  /** Deadline of one request. */
  timeoutMs: number;
}

/** The most that Golioth gives at once. */
export const DEVICES_PER_PAGE = 100;

const PROVIDER = 'Golioth';

export function createGoliothClient({ baseUrl, timeoutMs }: GoliothSettings): GoliothClient {
  return {
    listDevices: async ({ projectId, apiKey }, page, signal) => {
      const url = new URL(`${baseUrl}/v1/projects/${encodeURIComponent(projectId)}/devices`);
      url.searchParams.set('page', String(page));
      url.searchParams.set('perPage', String(DEVICES_PER_PAGE));
      const answer = await requestProvider({ method: 'GET', url, headers: { 'x-api-key': apiKey } }, signal, {
        ...{ provider: PROVIDER, timeoutMs, limitScope: 'tenant' },
        classify: ({ status }: ProviderAnswer) => refusalOf(status, projectId),
      });
      return parsePage(answer.body);
    },
  };
}

/** What the owner of the integration has to do about it. */
const REFUSALS: Record<number, string> = {
  401: 'refuses the API key of this integration. Enter a valid one',
  403: 'does not let the API key of this integration read the devices of the project. Give it that right, or enter another',
  404: 'knows no such project for this API key. Correct the project, or enter a key of it',
};

function refusalOf(status: number, projectId: string): OutboxError | undefined {
  const refusal = REFUSALS[status];
  if (refusal === undefined) return undefined;
  return new PermanentError(`${PROVIDER} ${refusal} (project ${projectId}, status ${status}).`, {
    code: `golioth_${status}`,
  });
}

/** One that Postgres refuses would fail the whole page. */
const instant = z.iso.datetime({ offset: true }).nullish().catch(null);

/** Without what JSON can say and Postgres cannot keep: NUL, and halves of characters. */
const text = z.string().transform((value) => value.replaceAll('\u0000', '').replace(/[\ud800-\udfff]/gu, '\ufffd'));

const deviceBody = z.object({
  id: text.pipe(z.string().min(1)),
  name: text.nullish(),
  hardwareIds: z.array(text).nullish(),
  tagIds: z.array(text).nullish(),
  blueprintId: text.nullish(),
  cohortId: text.nullish(),
  enabled: z.boolean().nullish(),
  createdAt: instant,
  updatedAt: instant,
  // The fields of the same names beside `metadata` are deprecated.
  metadata: z.object({ lastReport: instant, lastSeenOnline: instant }).nullish().catch(null),
});

const pageBody = z.object({ list: z.array(deviceBody), total: z.int().min(0) });

function parsePage(body: unknown): DevicePage {
  const page = pageBody.safeParse(body);
  if (!page.success) {
    // Only where it differs: the values may be anybody's.
    const where = page.error.issues[0]?.path.join('.') ?? '';
    throw new ProviderUnavailableError(`${PROVIDER}'s answer cannot be read (at "${where}").`, { ambiguous: false });
  }
  return { devices: page.data.list.map(toDevice), total: page.data.total };
}

function toDevice({ metadata, ...device }: z.output<typeof deviceBody>): Device {
  return {
    id: device.id,
    name: device.name ?? null,
    hardwareIds: device.hardwareIds ?? [],
    tagIds: device.tagIds ?? [],
    blueprintId: device.blueprintId || null,
    cohortId: device.cohortId || null,
    enabled: device.enabled ?? true,
    createdAt: device.createdAt ?? null,
    updatedAt: device.updatedAt ?? null,
    lastReportAt: metadata?.lastReport ?? null,
    lastSeenOnlineAt: metadata?.lastSeenOnline ?? null,
  };
}

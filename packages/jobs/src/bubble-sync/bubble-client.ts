import {
  PermanentError,
  ProviderUnavailableError,
  requestProvider,
  type OutboxError,
  type ProviderAnswer,
  type ProviderRequest,
} from '@outbox/core';
import { z } from 'zod';

/** Users in Bubble. Every call throws what `requestProvider` throws, and gives up when its signal aborts. */
export interface BubbleClient {
  /**
   * Id of Bubble's thing for our user: the one that has our id, else one with this email that has no id of ours yet. Throws
   * `PermanentError` when the email belongs to another user of ours.
   */
  find(user: { id: string; email: string | null }, signal: AbortSignal): Promise<string | undefined>;
  /** Resolves with the new thing's id. Not to be repeated blindly: Bubble does not recognise a repetition. */
  create(userId: string, fields: Record<string, unknown>, signal: AbortSignal): Promise<string>;
  /** Sets these fields and leaves the others; false when Bubble has no such thing (any more). */
  update(bubbleId: string, userId: string, fields: Record<string, unknown>, signal: AbortSignal): Promise<boolean>;
}

export interface BubbleClientOptions {
  /** Address of the app and its version, e.g. `https://app.bubbleapps.io/version-test`. */
  appUrl: string;
  /** Token made in the app's settings; never quoted. */
  apiToken: string;
  /** The type's name in addresses: lower case, no spaces. */
  dataType: string;
  /** Name of the field that holds our id, as Bubble shows it. */
  idField: string;
  /** Name of the email field, as Bubble shows it. */
  emailField: string;
  /** Deadline of one HTTP request, connecting included. */
  timeoutMs: number;
}

/** Bubble refused the values of one call: they do not fit the type, or the email is taken. */
export const BUBBLE_REFUSED = 'bubble_400';

/** Nothing connects before the first call; calls may run side by side. */
export function createBubbleClient(options: BubbleClientOptions): BubbleClient {
  const { idField, emailField, dataType } = options;
  const root = `${options.appUrl.replace(/\/+$/, '')}/api/1.1/obj/${dataType}`;

  const ask = (request: ProviderRequest, signal: AbortSignal) =>
    requestProvider({ ...request, headers: { authorization: `Bearer ${options.apiToken}` } }, signal, {
      provider: 'Bubble',
      timeoutMs: options.timeoutMs,
      limitScope: 'provider',
      classify: errorOfRefusal,
    });

  /** The oldest thing whose field has this value. */
  const search = async (field: string, value: string, signal: AbortSignal): Promise<Thing | undefined> => {
    const url = new URL(root);
    url.searchParams.set('constraints', JSON.stringify([{ key: field, constraint_type: 'equals', value }]));
    url.searchParams.set('sort_field', 'Created Date');
    url.searchParams.set('limit', '1');
    const { body } = await ask({ method: 'GET', url }, signal);
    return readAs(searchAnswer, body, { ambiguous: false }).response.results[0];
  };

  return {
    find: async ({ id, email }, signal) => {
      const ours = await search(idField, id, signal);
      if (ours) return ours._id;
      const namesake = email === null ? undefined : await search(emailField, email, signal);
      if (namesake === undefined) return undefined;
      const owner = namesake[idField];
      if (owner === undefined || owner === null || owner === '' || owner === id) return namesake._id;
      throw new PermanentError(
        `The email of user ${id} belongs to Bubble's ${namesake._id}, which is another user of ours. Set the field ` +
          `"${idField}" of that thing right, or delete it.`,
        { code: 'bubble_email_taken' },
      );
    },

    create: async (userId, fields, signal) => {
      const request = { url: new URL(root), body: { ...fields, [idField]: userId }, mustNotRepeat: true };
      const { body } = await ask({ method: 'POST', ...request }, signal);
      return readAs(createAnswer, body, { ambiguous: true }).id;
    },

    update: async (bubbleId, userId, fields, signal) => {
      const url = new URL(`${root}/${encodeURIComponent(bubbleId)}`);
      try {
        await ask({ method: 'PATCH', url, body: { ...fields, [idField]: userId } }, signal);
        return true;
      } catch (error) {
        if (error instanceof NoSuchThingError) return false;
        throw error;
      }
    },
  };
}

const thing = z.looseObject({ _id: z.string().min(1) });
type Thing = z.output<typeof thing>;

const searchAnswer = z.object({ response: z.object({ results: z.array(thing) }) });
const createAnswer = z.object({ status: z.literal('success'), id: z.string().min(1) });

/** An answer that is not what Bubble documents: it is overloaded, or something else answered for it. */
function readAs<Schema extends z.ZodType>(
  schema: Schema,
  body: unknown,
  { ambiguous }: { ambiguous: boolean },
): z.output<Schema> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw new ProviderUnavailableError("Bubble's answer is not one of its Data API.", { ambiguous });
}

/** Bubble has no thing with that id: deleted, or made in another version of the app. */
class NoSuchThingError extends PermanentError {}

const refusal = z.object({ body: z.object({ status: z.string(), message: z.string() }) });

/** Names of fields may be told; everything else of a message may be somebody's data. */
const UNKNOWN_FIELD = /^Unrecognized field: ([^\n]{1,80})$/;

const ADVICE = 'Check the BUBBLE_ settings, and that the type is exposed by the Data API of this version of the app.';

/** What Bubble's own refusals mean; undefined for those that all providers have (429, 5xx). */
function errorOfRefusal({ status, body }: ProviderAnswer): OutboxError | undefined {
  const told = refusal.safeParse(body).data?.body;
  switch (status) {
    case 400: {
      const field = UNKNOWN_FIELD.exec(told?.message ?? '')?.[1];
      const why = field === undefined ? 'values do not fit the type, or the email is taken' : `has no field "${field}"`;
      return new PermanentError(`Bubble refused the user (400): ${why}. Compare bubble.user_source with the type.`, {
        code: BUBBLE_REFUSED,
      });
    }
    case 401:
    case 403:
      return new PermanentError(
        `Bubble does not let us in (${status}). Check BUBBLE_API_TOKEN and the privacy rules.`,
        {
          code: `bubble_${status}`,
        },
      );
    case 404:
      return told?.status === 'MISSING_DATA'
        ? new NoSuchThingError('Bubble has no such thing (404).', { code: 'bubble_missing' })
        : new PermanentError(`Bubble does not know the address or a field (404). ${ADVICE}`, { code: 'bubble_404' });
    default:
      return undefined;
  }
}

import { requestProvider, type ProviderAnswer } from '@outbox/core';
import { classifyGoogle } from './google-errors.ts';
import {
  parseAccounts,
  parseLocations,
  parseReviews,
  type GoogleLocation,
  type Page,
  type ReviewPage,
} from './google-pages.ts';
import { refreshAccess, type RenewedAccess } from './google-token.ts';

/**
 * Reads of Google's Business Profile APIs, one page a call. All may be repeated. They throw `RateLimitedError` (of the whole
 * project), `ProviderUnavailableError`, among it `UnreadablePageError`, and `PermanentError` with a code of `REFUSED`. No
 * error carries a token, or anything of an answer but Google's own words for what is wrong.
 */
export interface GoogleClient {
  /** A new access token for what a user has granted. */
  refresh(refreshToken: string, signal: AbortSignal): Promise<RenewedAccess>;
  /** Names of the accounts that the user can manage. */
  listAccounts(access: string, pageToken: string | undefined, signal: AbortSignal): Promise<Page<string>>;
  /** Locations of `account` (`accounts/1`). */
  listLocations(
    access: string,
    account: string,
    pageToken: string | undefined,
    signal: AbortSignal,
  ): Promise<Page<GoogleLocation>>;
  /** Reviews of `location` (`accounts/1/locations/2`), the last changed first. */
  listReviews(
    access: string,
    location: string,
    pageToken: string | undefined,
    signal: AbortSignal,
  ): Promise<ReviewPage>;
}

export interface GoogleClientSettings {
  clientId: string;
  clientSecret: string;
  tokenUrl: string;
  /** Account Management v1, Business Information v1 and My Business v4, without the version: `https://host/`. */
  accountManagementUrl: string;
  businessInformationUrl: string;
  myBusinessUrl: string;
  /** Deadline of one call. Milliseconds. */
  timeoutMs: number;
}

/** What is kept of a location, and what a change of it is seen by. Without a mask Google refuses. */
const LOCATION_FIELDS = [
  'name',
  'title',
  'storeCode',
  'languageCode',
  'phoneNumbers',
  'categories',
  'storefrontAddress',
  'websiteUri',
  'regularHours',
  'specialHours',
  'serviceArea',
  'labels',
  'latlng',
  'openInfo',
  'metadata',
  'profile',
].join(',');

/** The largest pages that Google gives. */
const PAGE_SIZES = { accounts: 20, locations: 100, reviews: 50 };

/** Nothing connects before the first call; calls may run side by side. */
export function createGoogleClient(settings: GoogleClientSettings): GoogleClient {
  const { accountManagementUrl, businessInformationUrl, myBusinessUrl, timeoutMs } = settings;

  const list = (
    url: URL,
    access: string,
    parameters: Record<string, string | number | undefined>,
    signal: AbortSignal,
  ): Promise<ProviderAnswer> => {
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    return requestProvider({ method: 'GET', url, headers: { authorization: `Bearer ${access}` } }, signal, {
      provider: 'Google',
      timeoutMs,
      limitScope: 'provider',
      classify: classifyGoogle,
    });
  };

  return {
    refresh: (refreshToken, signal) => refreshAccess(refreshToken, settings, signal),

    listAccounts: async (access, pageToken, signal) => {
      const url = below(accountManagementUrl, 'v1/accounts');
      return parseAccounts(await list(url, access, { pageSize: PAGE_SIZES.accounts, pageToken }, signal));
    },

    listLocations: async (access, account, pageToken, signal) => {
      const url = below(businessInformationUrl, `v1/${account}/locations`);
      const parameters = { readMask: LOCATION_FIELDS, pageSize: PAGE_SIZES.locations, pageToken };
      return parseLocations(await list(url, access, parameters, signal));
    },

    listReviews: async (access, location, pageToken, signal) => {
      const url = below(myBusinessUrl, `v4/${location}/reviews`);
      const parameters = { orderBy: 'updateTime desc', pageSize: PAGE_SIZES.reviews, pageToken };
      return parseReviews(await list(url, access, parameters, signal));
    },
  };
}

function below(baseUrl: string, path: string): URL {
  return new URL(path, baseUrl.endsWith('/') ? baseUrl : `${baseUrl}/`);
}

import { startServer, type ServerOptions, type SimulatorServer } from '../shared/server.ts';
import type { ApiRequest } from '../shared/serve.ts';
import { createGoogleApp, QUOTA_PER_MINUTE } from './app.ts';
import type { Account, AccountInput, Location, LocationInput, Review, ReviewInput } from './directory.ts';
import type { GoogleFaultInput } from './faults.ts';
import { createGoogleStores } from './stores.ts';

export interface GoogleSimulatorOptions extends ServerOptions {
  /** Calls a minute beyond which all are refused with 429; 300 by default, as Google grants. */
  quotaPerMinute?: number;
}

export interface GoogleSimulator extends SimulatorServer {
  readonly quotaPerMinute: number;
  /** Adds an account; those of one refresh token belong to one Google user. */
  addAccount(account: AccountInput): Account;
  addLocation(account: string, location: LocationInput): Location;
  removeLocation(account: string, location: string): void;
  addReview(account: string, location: string, review: ReviewInput): Review;
  updateReview(name: string, changes: ReviewInput): Review;
  removeReview(name: string): void;
  /** The user takes the grant back: invalid_grant from now on, and its access tokens are no good. */
  revoke(refreshToken: string): void;
  expireAccessTokens(): void;
  /** The most calls (token refreshes aside) that any 60 s saw. */
  highestPerMinute(): number;
  /** What was asked, token refreshes too, in order. */
  requests(): ApiRequest[];
  fault(fault: GoogleFaultInput): void;
  clearFaults(): void;
  reset(): void;
}

/** Starts a simulator of its own: nothing is shared between two. Throws `UnavailableError` when the port is taken. */
export async function startGoogleSimulator(options: GoogleSimulatorOptions = {}): Promise<GoogleSimulator> {
  const { quotaPerMinute = QUOTA_PER_MINUTE } = options;
  const stores = createGoogleStores();
  const { directory, tokens, faults, requests, rate } = stores;
  const server = await startServer(createGoogleApp(stores, quotaPerMinute), options);

  return {
    ...server,
    quotaPerMinute,
    addAccount: (account) => directory.addAccount(account),
    addLocation: (account, location) => directory.addLocation(account, location),
    removeLocation: (account, location) => directory.removeLocation(account, location),
    addReview: (account, location, review) => directory.addReview(account, location, review),
    updateReview: (name, changes) => directory.updateReview(name, changes),
    removeReview: (name) => directory.removeReview(name),
    revoke: (refreshToken) => tokens.revoke(refreshToken),
    expireAccessTokens: () => tokens.expireAll(),
    highestPerMinute: () => rate.highestPerMinute,
    requests: () => requests.all(),
    fault: (fault) => void faults.add(fault),
    clearFaults: () => faults.clear(),
    reset: () => {
      for (const store of [directory, tokens, faults, requests, rate]) store.clear();
    },
  };
}

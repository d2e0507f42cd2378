import { MINUTE, PermanentError, type JobContext } from '@outbox/core';
import type { GoogleClient } from './google-client.ts';
import { REFUSED } from './google-errors.ts';
import * as store from './store.ts';
import type { Tokens } from './store.ts';

/** A token that has so long to live is exchanged before it is used, as Google's own library does. */
const RENEW_BEFORE_MS = 5 * MINUTE;

/**
 * Calls Google as the user of one account: with the access token we have, or a new one when it is about to expire or Google
 * does not accept it. When no new one is to be had, the account is marked as one that its user has to connect again.
 */
export class Access {
  readonly #accountId: string;
  readonly #google: GoogleClient;
  readonly #context: JobContext;
  #tokens: Tokens | undefined;

  constructor(accountId: string, google: GoogleClient, context: JobContext) {
    this.#accountId = accountId;
    this.#google = google;
    this.#context = context;
  }

  /** In its turn (`JobContext.call`). Throws what `request` throws. */
  async call<T>(request: (access: string, signal: AbortSignal) => Promise<T>): Promise<T> {
    const access = (await this.#validToken()) ?? (await this.#renew());
    try {
      return await this.#context.call((signal) => request(access, signal));
    } catch (error) {
      if (!isRefused(error, REFUSED.unauthenticated)) throw await this.#judged(error);
    }
    const renewed = await this.#renew();
    try {
      return await this.#context.call((signal) => request(renewed, signal));
    } catch (error) {
      throw await this.#judged(error);
    }
  }

  async #validToken(): Promise<string | undefined> {
    this.#tokens ??= await store.findTokens(this.#context.db, this.#accountId);
    const { accessToken, expiresAt } = this.#tokens;
    const isValid = accessToken && expiresAt && expiresAt.getTime() > Date.now() + RENEW_BEFORE_MS;
    return isValid ? accessToken : undefined;
  }

  async #renew(): Promise<string> {
    const { db, call } = this.#context;
    const refreshToken = this.#tokens?.refreshToken;
    if (!refreshToken) {
      const message = `Account ${this.#accountId} is not connected: its user has granted nothing.`;
      throw await this.#judged(new PermanentError(message, { code: REFUSED.revoked }));
    }
    try {
      const renewed = await call((signal) => this.#google.refresh(refreshToken, signal));
      await store.recordAccess(db, this.#accountId, renewed);
      this.#tokens = { ...renewed, refreshToken: renewed.refreshToken ?? refreshToken };
      return renewed.accessToken;
    } catch (error) {
      throw await this.#judged(error);
    }
  }

  /** The same error, after what only the user can mend has been made visible. */
  async #judged(error: unknown): Promise<unknown> {
    if (isRefused(error, REFUSED.revoked, REFUSED.scope, REFUSED.unauthenticated)) {
      const { db } = this.#context;
      await store.requireReconnection(db, this.#accountId, this.#tokens?.refreshToken ?? null, error.code);
    }
    return error;
  }
}

export function isRefused(error: unknown, ...codes: string[]): error is PermanentError {
  return error instanceof PermanentError && codes.includes(error.code);
}

import { randomBytes } from 'node:crypto';

/** What Google says of a new access token, in seconds. */
export const LIFETIME_S = 3_599;

/** Which access tokens were given out, and which refresh tokens are no good any more. */
export class Tokens {
  readonly #now: () => number;
  readonly #issued = new Map<string, { refreshToken: string; until: number }>();
  readonly #revoked = new Set<string>();

  constructor(now: () => number) {
    this.#now = now;
  }

  issue(refreshToken: string): string {
    const token = `ya29.${randomBytes(24).toString('base64url')}`;
    this.#issued.set(token, { refreshToken, until: this.#now() + LIFETIME_S * 1_000 });
    return token;
  }

  /** The refresh token a valid access token came from. */
  ownerOf(accessToken: string): string | undefined {
    const issued = this.#issued.get(accessToken);
    if (!issued || issued.until <= this.#now() || this.#revoked.has(issued.refreshToken)) return undefined;
    return issued.refreshToken;
  }

  revoke(refreshToken: string): void {
    this.#revoked.add(refreshToken);
  }

  isRevoked(refreshToken: string): boolean {
    return this.#revoked.has(refreshToken);
  }

  /** None that was given out works any more; refreshing gives new ones. */
  expireAll(): void {
    this.#issued.clear();
  }

  clear(): void {
    this.#issued.clear();
    this.#revoked.clear();
  }
}

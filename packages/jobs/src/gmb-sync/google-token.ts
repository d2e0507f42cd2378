import { OutboxError, ProviderUnavailableError, requestProvider, SECOND } from '@outbox/core';
import { gaxios, OAuth2Client, type Credentials } from 'google-auth-library';
import { classifyTokenEndpoint } from './google-errors.ts';

export interface RenewedAccess {
  accessToken: string;
  expiresAt: Date;
  /** Set when Google exchanged the refresh token with it. */
  refreshToken: string | undefined;
}

export interface TokenSettings {
  clientId: string;
  clientSecret: string;
  tokenUrl: string;
  timeoutMs: number;
}

/** Lifetime of a token that does not say how long it lives. */
const SHORTEST_LIFE_MS = 60 * SECOND;

/**
 * Has Google's library exchange a refresh token for a new access token. Throws as the other calls of `GoogleClient` do;
 * `PermanentError` with the code `google_grant_revoked` when the user has to connect the account again.
 */
export async function refreshAccess(
  refreshToken: string,
  settings: TokenSettings,
  signal: AbortSignal,
): Promise<RenewedAccess> {
  const client = new OAuth2Client({
    clientId: settings.clientId,
    clientSecret: settings.clientSecret,
    endpoints: { oauth2TokenUrl: settings.tokenUrl },
    transporter: new OnceTransporter(settings, signal),
  });
  client.setCredentials({ refresh_token: refreshToken });
  const exchanged: { refreshToken?: string | undefined } = {};
  // The library keeps the refresh token it was given; only the event tells of another.
  client.once('tokens', (tokens: Credentials) => (exchanged.refreshToken = tokens.refresh_token ?? undefined));
  try {
    const { token } = await client.getAccessToken();
    if (!token) throw new ProviderUnavailableError("Google's token endpoint gave no token.", { ambiguous: false });
    const expiresMs = client.credentials.expiry_date ?? Date.now() + SHORTEST_LIFE_MS;
    return { accessToken: token, expiresAt: new Date(expiresMs), refreshToken: exchanged.refreshToken };
  } catch (error) {
    throw ownError(error);
  }
}

/** The library's HTTP client, with our policy of requests and errors, and without its own retries. */
class OnceTransporter extends gaxios.Gaxios {
  constructor({ timeoutMs }: TokenSettings, signal: AbortSignal) {
    super({
      fetchImplementation: async (input, init) => {
        const answer = await requestProvider(
          {
            method: 'POST',
            url: new URL(input instanceof Request ? input.url : input),
            headers: Object.fromEntries(new Headers(init?.headers)),
            body: await new Response(init?.body).text(),
          },
          signal,
          { provider: 'Google', timeoutMs, limitScope: 'provider', classify: classifyTokenEndpoint },
        );
        return Response.json(answer.body ?? {});
      },
    });
  }

  override request<T>(options?: gaxios.GaxiosOptions): gaxios.GaxiosPromise<T> {
    return super.request<T>({ ...options, retry: false, retryConfig: { retry: 0 } });
  }
}

/** The library wraps what our client has thrown. Its own errors carry the whole request, tokens and secrets included. */
function ownError(error: unknown): OutboxError {
  if (error instanceof OutboxError) return error;
  if (error instanceof Error && error.cause instanceof OutboxError) return error.cause;
  const kind = error instanceof Error ? error.name : typeof error;
  return new ProviderUnavailableError(`Google's token endpoint gave an answer that cannot be read (${kind}).`, {
    ambiguous: false,
  });
}

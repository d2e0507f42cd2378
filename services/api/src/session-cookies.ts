import type { Request } from 'express';
import { z } from 'zod';
import { credentialOf, type Authenticate } from './auth.ts';
import { ProblemError } from './problem.ts';
import { comesFromElsewhere, hasOwnOrigin, isRead } from './same-origin.ts';
import type { ReadUserToken } from './supabase-tokens.ts';

/**
 * The session that Supabase's library keeps in a browser's cookies. A browser sends them along whoever asks it to, so a
 * request that writes must also name our own origin, and one that reads must not come from another site; else it is
 * refused with 403. A request with a token or key of its own is judged by that alone.
 */
export function sessionCookieAuthentication(
  readUserToken: ReadUserToken,
  { publicUrl }: { publicUrl: string | undefined },
): Authenticate {
  return async (request) => {
    const tokens = credentialOf(request) === undefined ? accessTokens(request.get('cookie') ?? '') : [];
    if (tokens.length > 0) refuseOtherOrigins(request, publicUrl);
    for (const token of tokens) {
      const caller = await readUserToken(token);
      if (caller) return caller;
    }
    return undefined;
  };
}

function refuseOtherOrigins(request: Request, publicUrl: string | undefined): void {
  const isOurs = isRead(request) || hasOwnOrigin(request, publicUrl);
  if (isOurs && !comesFromElsewhere(request, publicUrl)) return;
  const detail = 'With a session cookie the header "Origin" must name this site. Send a bearer token instead.';
  throw new ProblemError('forbidden', detail);
}

/** A cookie of a session: `sb-<project>-auth-token`, or of a long one a part, with its number at the end. */
const SESSION_COOKIE = /^(sb-[^;]+-auth-token)(?:\.(\d{1,2}))?$/;

/** A session as the library writes it, and as its predecessors did. */
const session = z.union([
  z.object({ access_token: z.string() }).transform((parsed) => parsed.access_token),
  z.tuple([z.string()], z.unknown()).transform(([accessToken]) => accessToken),
]);

/** The access tokens of all sessions in the header `Cookie`; of what is no session, none. */
export function accessTokens(header: string): string[] {
  return [...cookiesOfSessions(header).values()].flatMap((parts) => {
    const { data } = session.safeParse(decodeSession(join(parts)));
    return data === undefined ? [] : [data];
  });
}

/** By session: its parts by their number, -1 for a cookie that is all of it. Of two cookies of one name the first counts. */
function cookiesOfSessions(header: string): Map<string, Map<number, string>> {
  const sessions = new Map<string, Map<number, string>>();
  for (const pair of header.split(';')) {
    const [name = '', value = ''] = pair.trim().split(/=(.*)/s);
    const [, base, number = '-1'] = SESSION_COOKIE.exec(name) ?? [];
    if (base === undefined) continue;
    const parts = sessions.get(base) ?? new Map<number, string>();
    if (!parts.has(Number(number))) parts.set(Number(number), decodeValue(value));
    sessions.set(base, parts);
  }
  return sessions;
}

/** Parts count up to the first gap: what is behind it is left from an earlier, longer session. */
function join(parts: Map<number, string>): string {
  const whole = parts.get(-1);
  if (whole !== undefined) return whole;
  let joined = '';
  for (let number = 0; parts.has(number); number += 1) joined += parts.get(number);
  return joined;
}

function decodeValue(value: string): string {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

const BASE64 = 'base64-';

function decodeSession(text: string): unknown {
  const json = text.startsWith(BASE64) ? Buffer.from(text.slice(BASE64.length), 'base64url').toString() : text;
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

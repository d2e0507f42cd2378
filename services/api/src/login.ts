import { HOUR, MINUTE, type Logger } from '@outbox/core';
import cookieSession from 'cookie-session';
import express, { type Request, type RequestHandler, type Response, type Router } from 'express';
import { rateLimit } from 'express-rate-limit';
import { z } from 'zod';
import type { ApiSettings } from './config.ts';
import { renderLoginPage, renderLogoutPage } from './login-page.ts';
import { ProblemError } from './problem.ts';
import { comesFromElsewhere, isRead } from './same-origin.ts';
import { isOneOf } from './secrets.ts';

export const BOARD_PATH = '/admin/queues';

const SESSION_COOKIE = 'outbox_session';
const SESSION_MS = 12 * HOUR;
const TRIES_PER_MINUTE = 10;

const session = z.object({ user: z.string(), expiresAt: z.number() });
const credentials = z.object({ user: z.string().max(200), password: z.string().max(1_000) });

export type LoginSettings = Pick<ApiSettings, 'BOARD_USER' | 'BOARD_PASSWORD' | 'SESSION_SECRETS' | 'PUBLIC_URL'>;

/** Reads and writes the session: a signed cookie, so any number of API processes share it. For everything in /admin. */
export function sessions(settings: LoginSettings): RequestHandler {
  return cookieSession({
    name: SESSION_COOKIE,
    keys: settings.SESSION_SECRETS,
    path: '/admin',
    httpOnly: true,
    sameSite: 'lax',
    secure: settings.PUBLIC_URL?.startsWith('https:') ?? false,
    maxAge: SESSION_MS,
  });
}

/** The login form, the login and the logout, below /admin. */
export function loginRoutes(settings: LoginSettings, log: Logger): Router {
  const router = express.Router();
  const form = express.urlencoded({ extended: false, limit: '8kb' });
  const ownPagesOnly = refuseOtherSites(settings.PUBLIC_URL);

  router.get('/admin', (_request, response) => response.redirect(BOARD_PATH));
  router.get('/admin/login', (request, response) => {
    sendPage(response, renderLoginPage({ next: safeNext(request.query.next) }));
  });
  router.post('/admin/login', ownPagesOnly, form, limitTries(), (request, response) => {
    const next = safeNext(nextOf(request.body));
    const { data } = credentials.safeParse(request.body);
    if (!data || !isOperator(data, settings)) {
      log.warn({ address: request.ip }, 'login refused');
      const problem = 'That user and password do not match.';
      return sendPage(response.status(401), renderLoginPage({ next, problem, user: data?.user ?? '' }));
    }
    log.info({ user: data.user, address: request.ip }, 'logged in');
    request.session = { user: data.user, expiresAt: Date.now() + SESSION_MS };
    response.redirect(303, next);
  });
  router.get('/admin/logout', (_request, response) => sendPage(response, renderLogoutPage()));
  router.post('/admin/logout', ownPagesOnly, (request, response) => {
    request.session = null;
    response.redirect(303, '/admin/login');
  });
  return router;
}

/** Sends a person who is not logged in to the form, and back afterwards; refuses calls of the board's script. */
export const requireLogin: RequestHandler = (request, response, next) => {
  if (isLoggedIn(request)) return next();
  if (request.path.startsWith('/api/') || !isRead(request)) {
    throw new ProblemError('unauthorized', 'Log in at /admin/login.');
  }
  response.redirect(`/admin/login?${new URLSearchParams({ next: request.originalUrl }).toString()}`);
};

function isLoggedIn(request: Request): boolean {
  const { data } = session.safeParse(request.session);
  // A cookie that was copied out of the browser must end as well.
  return data !== undefined && data.expiresAt > Date.now();
}

/** Both are always compared, so that a wrong user takes as long as a wrong password. */
function isOperator(given: z.output<typeof credentials>, settings: LoginSettings): boolean {
  const user = isOneOf(given.user, [settings.BOARD_USER]);
  const password = isOneOf(given.password, [settings.BOARD_PASSWORD]);
  return user && password;
}

/** By address, counted in this process. */
function limitTries(): RequestHandler {
  return rateLimit({
    windowMs: 1 * MINUTE,
    limit: TRIES_PER_MINUTE,
    standardHeaders: false,
    legacyHeaders: false,
    validate: { xForwardedForHeader: false },
    handler: (request, response) => {
      const problem = 'Too many tries. Wait a minute.';
      response.status(429).set('Retry-After', '60');
      sendPage(response, renderLoginPage({ next: safeNext(nextOf(request.body)), problem }));
    },
  });
}

/** A form on another site must not log anybody in or out. */
function refuseOtherSites(publicUrl: string | undefined): RequestHandler {
  return (request, _response, next) => {
    if (!comesFromElsewhere(request, publicUrl)) return next();
    throw new ProblemError('forbidden', 'This form can only be sent from its own page.');
  };
}

function nextOf(body: unknown): unknown {
  return z.object({ next: z.unknown() }).safeParse(body).data?.next;
}

/** Only a path of the board, whatever site it names; anything else becomes the board's first page. */
function safeNext(next: unknown): string {
  const base = 'http://here.invalid';
  if (typeof next !== 'string' || !URL.canParse(next, base)) return BOARD_PATH;
  const { pathname, search } = new URL(next, base);
  const isBoard = pathname === BOARD_PATH || pathname.startsWith(`${BOARD_PATH}/`);
  return isBoard ? pathname + search : BOARD_PATH;
}

function sendPage(response: Response, html: string): void {
  response.set('Cache-Control', 'no-store').type('html').send(html);
}

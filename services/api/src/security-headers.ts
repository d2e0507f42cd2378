import type { RequestHandler } from 'express';
import helmet from 'helmet';
import { LOGIN_STYLE_HASH } from './login-page.ts';

type Directives = Record<string, string[]>;

/** JSON has nothing to load. */
const API_POLICY: Directives = {
  'default-src': ["'none'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ["'none'"],
};

const LOGIN_POLICY: Directives = {
  ...API_POLICY,
  'style-src': [LOGIN_STYLE_HASH],
  'img-src': ['data:'],
  'form-action': ["'self'"],
};

/** What Bull Board needs: inline styles, a web worker, a `<base>`. Its fonts come from Google and are left out. */
const BOARD_POLICY: Directives = {
  'default-src': ["'self'"],
  'style-src': ["'self'", "'unsafe-inline'"],
  'font-src': ["'self'"],
  'img-src': ["'self'", 'data:'],
  'connect-src': ["'self'"],
  'worker-src': ["'self'"],
  'base-uri': ["'self'"],
  'form-action': ["'self'"],
  'frame-ancestors': ["'none'"],
};

/** The strictest policy each part of the site can live with. `https`: browsers are told to stay with it for a year. */
export function securityHeaders({ https }: { https: boolean }): RequestHandler {
  const api = headersFor(API_POLICY, https);
  const login = headersFor(LOGIN_POLICY, https);
  const board = headersFor(BOARD_POLICY, https);
  return (request, response, next) => {
    if (/^\/admin\/queues(\/|$)/i.test(request.path)) return board(request, response, next);
    if (/^\/admin(\/|$)/i.test(request.path)) return login(request, response, next);
    return api(request, response, next);
  };
}

function headersFor(directives: Directives, https: boolean): RequestHandler {
  return helmet({
    contentSecurityPolicy: { useDefaults: false, directives },
    strictTransportSecurity: https && { maxAge: 365 * 24 * 60 * 60, includeSubDomains: false },
    // Not no-referrer: with it browsers hide the origin of a form from us as well, which the login checks.
    referrerPolicy: { policy: 'same-origin' },
    xFrameOptions: { action: 'deny' },
  });
}

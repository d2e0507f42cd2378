import type { Express, Request } from 'express';
import { answerBadInput, mountControls } from '../shared/controls.ts';
import { htmlPage, type Reply } from '../shared/exchange.ts';
import { bodyText } from '../shared/match.ts';
import { requestSection } from '../shared/page.ts';
import { createApiApp, queryOf, readText, serveWith, type Act } from '../shared/serve.ts';
import { STARS, type Account, type Location, type Review } from './directory.ts';
import { errorInfo, invalidArgument, notFound, quotaExceeded, refuse, refuseToken, unauthenticated } from './errors.ts';
import type { GoogleFault } from './faults.ts';
import { BadParameter, cutPage, pageNumber, readPage } from './listing.ts';
import type { GoogleStores } from './stores.ts';
import { LIFETIME_S } from './tokens.ts';

/** Requests a minute and project that Google grants. */
export const QUOTA_PER_MINUTE = 300;

const TOKEN_PATH = '/token';
const SIZES = { accounts: { max: 20, usual: 20 }, locations: { max: 100, usual: 10 }, reviews: { max: 50, usual: 50 } };

/** The hosts of Google that a sync of Business Profiles calls, under one address. It never listens. */
export function createGoogleApp(stores: GoogleStores, quotaPerMinute = QUOTA_PER_MINUTE): Express {
  const { directory, tokens, rate } = stores;
  const app = createApiApp();
  mountControls(app, { ...stores, section: () => describeGoogle(stores) });
  app.use(readText);

  const serve = serveWith<GoogleFault>(stores, {
    refusal: (request) => refusalOf(request, stores, quotaPerMinute),
    refuse: (fault, request) => wordsOf(fault, request),
    // A token refresh is no page of anything.
    fits: (fault, request) =>
      fault.kind !== 'poisoned-page' || (request.path !== TOKEN_PATH && pageNumber(request) === fault.page),
  });
  const list = (act: Act<GoogleFault>) =>
    serve((request, fault) => {
      if (fault?.kind === 'poisoned-page') return poison(fault);
      try {
        return act(request, fault);
      } catch (error) {
        if (error instanceof BadParameter) return invalidArgument(error.message);
        throw error;
      }
    });

  app.post(
    TOKEN_PATH,
    serve((request) => {
      const form = new URLSearchParams(bodyText(request));
      const refreshToken = form.get('refresh_token') ?? '';
      if (form.get('grant_type') !== 'refresh_token') {
        return refuseToken(400, 'unsupported_grant_type', 'Invalid grant_type.');
      }
      if (directory.accountsOf(refreshToken).length === 0 || tokens.isRevoked(refreshToken)) {
        return refuseToken(400, 'invalid_grant', 'Token has been expired or revoked.');
      }
      const body = { access_token: tokens.issue(refreshToken), expires_in: LIFETIME_S, token_type: 'Bearer' };
      return { status: 200, body: { ...body, scope: 'https://www.googleapis.com/auth/business.manage' } };
    }),
  );

  app.get(
    '/v1/accounts',
    list((request) => {
      const grant = grantOf(request, stores);
      const own = directory.accountsOf(grant ?? '').map(({ fields }) => fields);
      const { items, ...next } = cutPage(own, readPage(request, SIZES.accounts, { grant }));
      return listed('accounts', items, next);
    }),
  );

  app.get(
    '/v1/accounts/:account/locations',
    list((request) => {
      const { readMask } = queryOf(request);
      if (!readMask) return invalidArgument('Request contains an invalid argument. Field: read_mask is required.');
      const account = ownAccount(request, stores);
      if (!account) return notFound();
      const { items, ...next } = cutPage([...account.locations.values()], readPage(request, SIZES.locations));
      return listed(
        'locations',
        items.map((location) => masked(location, readMask)),
        next,
      );
    }),
  );

  app.get(
    '/v4/accounts/:account/locations/:location/reviews',
    list((request) => {
      const location = ownAccount(request, stores)?.locations.get(`locations/${String(request.params.location)}`);
      if (!location) return notFound();
      const order = queryOf(request).orderBy ?? 'updateTime desc';
      const reviews = inOrder([...location.reviews.values()], order);
      const { items, ...next } = cutPage(reviews, readPage(request, SIZES.reviews, { order }));
      return listed('reviews', items, { ...next, ...summary(reviews) });
    }),
  );

  app.use((_request, response) => {
    const { status, body } = htmlPage(404, 'Not Found');
    response.status(status).type('html').send(body);
  });
  app.use(answerBadInput);
  return app;

  /** Counted whether it is let in or not, as Google counts. */
  function refusalOf(request: Request, { tokens: issued }: GoogleStores, quota: number): Reply | undefined {
    if (request.path === TOKEN_PATH) return undefined;
    rate.add();
    if (rate.perMinute > quota) return quotaExceeded(serviceOf(request), String(quota));
    return issued.ownerOf(bearerOf(request)) === undefined ? unauthenticated() : undefined;
  }
}

function bearerOf(request: Request): string {
  return /^Bearer (.+)$/.exec(request.get('Authorization') ?? '')?.[1] ?? '';
}

function grantOf(request: Request, { tokens }: GoogleStores): string | undefined {
  return tokens.ownerOf(bearerOf(request));
}

/** Of somebody else's account Google says no more than of none. */
function ownAccount(request: Request, stores: GoogleStores): Account | undefined {
  const account = stores.directory.find(`accounts/${String(request.params.account)}`);
  return account?.refreshToken === grantOf(request, stores) ? account : undefined;
}

function wordsOf(fault: Extract<GoogleFault, { kind: 'status' }>, request: Request): Reply {
  const { status, reason, quotaLimitValue } = fault;
  if (request.path === TOKEN_PATH) return refuseToken(status, reason ?? 'internal_failure', 'Scripted fault');
  if (status === 401 && reason === undefined) return unauthenticated();
  if (status === 429) return quotaExceeded(serviceOf(request), quotaLimitValue ?? String(QUOTA_PER_MINUTE));
  return refuse(status, `Scripted fault (${status})`, reason === undefined ? [] : [errorInfo(reason)]);
}

function serviceOf(request: Request): string {
  if (request.path.startsWith('/v4/')) return 'mybusiness.googleapis.com';
  return request.path.endsWith('/locations')
    ? 'mybusinessbusinessinformation.googleapis.com'
    : 'mybusinessaccountmanagement.googleapis.com';
}

function poison({ as }: Extract<GoogleFault, { kind: 'poisoned-page' }>): Reply {
  if (as === 'error') return refuse(500, 'Internal error encountered.');
  return { status: 200, body: '{"reviews":[{"name":"acc', headers: { 'Content-Type': 'application/json' } };
}

/** An empty list is left out of the answer, as Google leaves out all that is empty. */
function listed(name: string, items: unknown[], rest: object): Reply {
  return { status: 200, body: { ...(items.length > 0 && { [name]: items }), ...rest } };
}

function masked({ fields }: Location, readMask: string): Record<string, unknown> {
  const names = new Set(readMask.split(',').map((path) => path.trim().split('.')[0]));
  return Object.fromEntries(Object.entries(fields).filter(([name]) => names.has(name)));
}

const ORDERS: Record<string, (a: Review, b: Review) => number> = {
  'updateTime desc': (a, b) => Date.parse(b.updateTime) - Date.parse(a.updateTime),
  rating: (a, b) => stars(a) - stars(b),
  'rating desc': (a, b) => stars(b) - stars(a),
};

function inOrder(reviews: Review[], order: string): Review[] {
  const compare = ORDERS[order];
  if (!compare) throw new BadParameter(`order_by ${order} is not supported.`);
  return reviews.sort(compare);
}

function stars({ starRating }: Review): number {
  return STARS[starRating] ?? 0;
}

function summary(reviews: Review[]): object {
  if (reviews.length === 0) return {};
  const average = reviews.reduce((sum, review) => sum + stars(review), 0) / reviews.length;
  return { averageRating: Math.round(average * 10) / 10, totalReviewCount: reviews.length };
}

export function describeGoogle({ directory, requests, faults, rate }: GoogleStores) {
  const accounts = directory.all();
  const locations = accounts.flatMap((account) => [...account.locations.values()]);
  const reviews = locations.reduce((sum, location) => sum + location.reviews.size, 0);
  return requestSection('Google', requests.all(), faults.all(), [
    `${accounts.length} accounts, ${locations.length} locations, ${reviews} reviews`,
    `${rate.perMinute} calls in the last minute, ${rate.highestPerMinute} at most`,
  ]);
}

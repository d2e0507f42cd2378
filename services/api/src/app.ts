import { healthRoutes, MINUTE, type Checks, type Logger } from '@outbox/core';
import type { FamilyName } from '@outbox/jobs';
import type { Queue } from 'bullmq';
import express, { type Express, type RequestHandler } from 'express';
import { rateLimit } from 'express-rate-limit';
import { requireCaller, serviceKeyAuthentication, servicesAndAdminsOnly, triggerSecretAuthentication } from './auth.ts';
import { boardRoutes } from './board.ts';
import type { ApiSettings } from './config.ts';
import { BOARD_PATH, loginRoutes, requireLogin, sessions, type LoginSettings } from './login.ts';
import { handleErrors, ProblemError, sendProblem, unknownRoute } from './problem.ts';
import { logRequests } from './request-log.ts';
import { effectRoutes } from './routes/effects.ts';
import { functionRoutes } from './routes/functions.ts';
import { GMB_PATHS, gmbRoutes } from './routes/gmb.ts';
import { jobRoutes, type JobRoutesDependencies } from './routes/jobs.ts';
import { providerRoutes } from './routes/providers.ts';
import { queueRoutes } from './routes/queues.ts';
import { sessionCookieAuthentication } from './session-cookies.ts';
import { securityHeaders } from './security-headers.ts';
import {
  createUserTokenReader,
  serviceTokenAuthentication,
  userTokenAuthentication,
  type TokenSettings,
} from './supabase-tokens.ts';

export interface AppDependencies extends JobRoutesDependencies {
  /** Switched on here. */
  families: readonly FamilyName[];
  /** How long a call of /functions/v1 waits for its jobs; 55 s by default. */
  triggerWaitMs?: number;
  /** What the board shows. */
  queues: readonly Queue[];
  settings: LoginSettings &
    TokenSettings &
    Pick<ApiSettings, 'SERVICE_KEYS' | 'TRIGGER_SECRETS' | 'RATE_LIMIT_PER_MINUTE' | 'TRUSTED_PROXIES'>;
  log: Logger;
  /** What has to be fine for /readyz. */
  checks: Checks;
}

const MAX_BODY = '100kb';

/** The whole HTTP side. It listens nowhere and owns nothing: who made the dependencies closes them. */
export function createApp({
  settings,
  log,
  checks,
  queues,
  families,
  triggerWaitMs,
  ...jobs
}: AppDependencies): Express {
  const app = express().set('trust proxy', settings.TRUSTED_PROXIES);
  const https = settings.PUBLIC_URL?.startsWith('https:') ?? false;
  if (https) assumeHttps(app);

  app.use(logRequests(log), securityHeaders({ https }), healthRoutes(checks));

  const services = [serviceKeyAuthentication(settings.SERVICE_KEYS), serviceTokenAuthentication(settings)];
  const readUserToken = createUserTokenReader(settings);

  const users = [
    userTokenAuthentication(readUserToken),
    sessionCookieAuthentication(readUserToken, { publicUrl: settings.PUBLIC_URL }),
  ];
  const triggers = triggerSecretAuthentication(settings.TRIGGER_SECRETS ?? []);

  app.use(['/api', '/functions'], neverStored, limitRequests(settings.RATE_LIMIT_PER_MINUTE));
  app.use('/api', requireCaller([...services, ...users]));
  app.use('/functions', requireCaller([...services, triggers]));
  app.use(['/api/effects', '/api/providers', '/api/queues'], servicesAndAdminsOnly);
  app.use(GMB_PATHS, express.text({ type: () => true, limit: MAX_BODY }));
  app.use(['/api', '/functions'], express.json({ limit: MAX_BODY }));
  app.use(gmbRoutes({ db: jobs.db, isInstalled: families.includes('gmb') }));
  app.use(functionRoutes({ db: jobs.db, families, ...(triggerWaitMs === undefined ? {} : { waitMs: triggerWaitMs }) }));
  app.use(jobRoutes(jobs), effectRoutes(jobs), providerRoutes(jobs), queueRoutes(jobs));

  app.use('/admin', sessions(settings));
  app.use(loginRoutes(settings, log));
  app.use(BOARD_PATH, requireLogin);
  app.use(boardRoutes(queues, jobs.catalog));

  app.use(unknownRoute, handleErrors(log));
  return app;
}

/** Whoever ends TLS in front of us need not say so in a header for the session cookie to be sent as a secure one. */
function assumeHttps(app: Express): void {
  Object.defineProperty(app.request, 'protocol', { value: 'https' });
}

const neverStored: RequestHandler = (_request, response, next) => {
  response.set('Cache-Control', 'no-store');
  next();
};

/** By address and before anything else, so that guessing keys is limited too. A counter that fails lets requests pass. */
function limitRequests(perMinute: number): RequestHandler {
  return rateLimit({
    windowMs: 1 * MINUTE,
    limit: perMinute,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    passOnStoreError: true,
    validate: { xForwardedForHeader: false },
    handler: (_request, response) => {
      const detail = `At most ${perMinute} requests a minute are answered.`;
      sendProblem(response, new ProblemError('too-many-requests', detail, { headers: { 'Retry-After': '60' } }));
    },
  });
}

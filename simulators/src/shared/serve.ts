import express, { type Express, type Request, type RequestHandler } from 'express';
import { exchange, type Desk, type Reply } from './exchange.ts';
import type { ScriptedFault } from './faults.ts';
import { fitsRequest, type RequestMatch } from './match.ts';
import type { LoggedRequest } from './request-log.ts';

/** One request as the log of most providers shows it. */
export interface ApiRequest extends LoggedRequest {
  /** Decoded, the last value of each name. */
  query: Record<string, string>;
}

export interface MatchedFault extends ScriptedFault {
  match?: RequestMatch | undefined;
}

/** What holds for every request to one API. */
export interface ApiRules<Fault extends MatchedFault> {
  /** Bad credentials or a limit. Asked once for each request, so it may count them. */
  refusal: (request: Request) => Reply | undefined;
  /** The provider's words for a scripted status. */
  refuse: (fault: Extract<Fault, { kind: 'status' }>, request: Request) => Reply;
  /** What must be true besides `match`, for the kinds that only this provider has. */
  fits?: (fault: Fault, request: Request) => boolean;
}

export type Act<Fault> = (request: Request, fault: Fault | undefined) => Reply;

/** Makes handlers of functions from request to reply: with faults, refusals and the log around them. */
export function serveWith<Fault extends MatchedFault>(
  desk: Desk<Fault, ApiRequest>,
  { refusal, refuse, fits = () => true }: ApiRules<Fault>,
): (act: Act<Fault>) => RequestHandler {
  return (act) => (request, response) =>
    exchange(desk, {
      request,
      response,
      refusal: refusal(request),
      fits: (fault) => fitsRequest(fault.match, request) && fits(fault, request),
      refuse: (fault) => refuse(fault, request),
      act: (fault) => act(request, fault),
      about: () => ({ query: queryOf(request) }),
    });
}

/** An express application of which nothing is visible from outside; every body of its API arrives as text. */
export function createApiApp(): Express {
  return express().disable('x-powered-by').disable('etag');
}

/** A whole import of many lines is to fit. */
export const readText = express.text({ type: () => true, limit: '64mb' });

export function queryOf(request: Request): Record<string, string> {
  return Object.fromEntries(new URL(request.url, 'http://simulator').searchParams);
}

import { FaultScript } from '../shared/faults.ts';
import { RequestLog } from '../shared/request-log.ts';
import { RequestRate } from '../shared/request-rate.ts';
import type { ApiRequest } from '../shared/serve.ts';
import { Directory } from './directory.ts';
import { googleFault, type GoogleFault, type GoogleFaultInput } from './faults.ts';
import { Tokens } from './tokens.ts';

/** What a Google simulator remembers. */
export function createGoogleStores(now: () => number = Date.now) {
  return {
    now,
    directory: new Directory(now),
    tokens: new Tokens(now),
    faults: new FaultScript<GoogleFault, GoogleFaultInput>(googleFault, now),
    requests: new RequestLog<ApiRequest>(),
    /** Calls of the APIs; token refreshes have no such limit. */
    rate: new RequestRate(now),
  };
}

export type GoogleStores = ReturnType<typeof createGoogleStores>;

import { FaultScript } from '../shared/faults.ts';
import { RequestLog, type LoggedRequest as SharedEntry } from '../shared/request-log.ts';
import { faultSchema, type Fault, type FaultInput } from './faults.ts';
import { MessageStore } from './messages.ts';

/** One API request, accepted or refused. */
export interface LoggedRequest extends SharedEntry {
  to: string | null;
  /** Twilio's error code, null when the request was accepted or nothing was answered. */
  code: number | null;
  /** The message that was stored, if one was. */
  sid: string | null;
}

/** What one simulator remembers. */
export interface TwilioStores {
  messages: MessageStore;
  faults: FaultScript<Fault, FaultInput>;
  requests: RequestLog<LoggedRequest>;
}

export function createTwilioStores(messageLimit?: number): TwilioStores {
  return { messages: new MessageStore(messageLimit), faults: new FaultScript(faultSchema), requests: new RequestLog() };
}

/** Older requests are forgotten. */
const REQUEST_LIMIT = 10_000;

/** One API request, accepted or refused. */
export interface LoggedRequest {
  at: string;
  method: string;
  path: string;
  to: string | null;
  /** Null when the connection was reset instead of an answer. */
  status: number | null;
  /** Twilio's error code, null when the request was accepted or nothing was answered. */
  code: number | null;
  /** The message that was stored, if one was. */
  sid: string | null;
  /** The scripted fault it ran into, if any. */
  fault: string | null;
}

/** What was asked of the API, oldest first, in memory. */
export class RequestLog {
  #requests: LoggedRequest[] = [];

  add(request: LoggedRequest): void {
    this.#requests.push(request);
    // Trimmed rarely, so that adding stays cheap.
    if (this.#requests.length > 2 * REQUEST_LIMIT) this.#requests = this.#requests.slice(-REQUEST_LIMIT);
  }

  all(): LoggedRequest[] {
    return this.#requests.slice(-REQUEST_LIMIT);
  }

  clear(): void {
    this.#requests = [];
  }
}

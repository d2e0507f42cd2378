/** Older requests are forgotten. */
const REQUEST_LIMIT = 10_000;

/** One API request, accepted or refused, as far as all providers have it in common. */
export interface LoggedRequest {
  /** When it arrived: ISO 8601, milliseconds. */
  at: string;
  method: string;
  /** Without the query. */
  path: string;
  /** Null when the connection was reset instead of an answer. */
  status: number | null;
  /** The kind of the scripted fault it ran into, if any. */
  fault: string | null;
}

/** What was asked of the API, in the order of the answers, in memory. */
export class RequestLog<Entry extends LoggedRequest> {
  readonly #limit: number;
  #requests: Entry[] = [];

  constructor(limit = REQUEST_LIMIT) {
    this.#limit = limit;
  }

  add(request: Entry): void {
    this.#requests.push(request);
    // Trimmed rarely, so that adding stays cheap.
    if (this.#requests.length > 2 * this.#limit) this.#requests = this.#requests.slice(-this.#limit);
  }

  all(): Entry[] {
    return this.#requests.slice(-this.#limit);
  }

  clear(): void {
    this.#requests = [];
  }
}

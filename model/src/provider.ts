/** services/worker/src/effects.ts: a call gives up after this, packages/jobs/src/reminders/handler.ts, CALL_TIMEOUT_MS. */
export const CALL_SECONDS = 12;
/** services/worker/src/effects.ts, SETTLE_MS: a request that was on its way has arrived by then, or never will. */
export const SETTLE_SECONDS = 15;

/** `slow`: requests are held on the way. `refuses`: an answer that says for certain "not carried out". */
export type Mood = 'answers' | 'slow' | 'refuses' | 'mute';

export interface Request {
  readonly key: string;
  readonly lastChanceAt: number;
  arrived: boolean;
}

/** Somebody else's server: it carries out what arrives, as often as it arrives. */
export class Provider {
  mood: Mood = 'answers';
  /** How often each business fact was carried out. */
  readonly arrivals = new Map<string, number>();
  #underWay: Request[] = [];
  readonly #onArrival: (key: string, times: number) => void;

  constructor(onArrival: (key: string, times: number) => void) {
    this.#onArrival = onArrival;
  }

  send(key: string, deadlineAt: number): Request {
    const request = { key, lastChanceAt: deadlineAt + SETTLE_SECONDS, arrived: false };
    if (this.mood === 'answers') this.#arrive(request);
    else this.#underWay.push(request);
    return request;
  }

  /** The oldest request that is held on its way gets through. */
  letOneThrough(): void {
    const request = this.#underWay.shift();
    if (request) this.#arrive(request);
  }

  /** What is held for too long never arrives: the one thing we assume of networks. */
  forgetLate(now: number): void {
    this.#underWay = this.#underWay.filter(({ lastChanceAt }) => now < lastChanceAt);
  }

  /** Undefined when it cannot tell now. */
  lookUp(key: string): boolean | undefined {
    return this.mood === 'mute' ? undefined : this.arrivals.has(key);
  }

  #arrive(request: Request): void {
    request.arrived = true;
    const times = (this.arrivals.get(request.key) ?? 0) + 1;
    this.arrivals.set(request.key, times);
    this.#onArrival(request.key, times);
  }
}

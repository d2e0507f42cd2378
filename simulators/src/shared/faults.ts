import { z } from 'zod';

/** Enough to outlast any test: a fault that holds until it is cleared. */
export const MAX_COUNT = 1_000_000;

/** How often and how long a fault hits. Whom it hits (`on`, a recipient, an account …) each provider adds. */
export const faultTiming = {
  count: z
    .int()
    .min(1)
    .max(MAX_COUNT)
    .optional()
    .describe('How many requests it hits: 1, or with `untilMs` as many as come'),
  untilMs: z.int().min(1).optional().describe('Milliseconds from now after which it hits no more'),
};

const statusFault = {
  kind: z.literal('status'),
  status: z.int().min(200).max(599),
  body: z
    .unknown()
    .optional()
    .describe("Instead of the provider's own words; a string is HTML unless `headers` say otherwise, all else is JSON"),
  headers: z.record(z.string(), z.string()).optional(),
  retryAfter: z
    .union([z.int().min(0), z.string()])
    .optional()
    .describe('Retry-After: seconds or an HTTP date'),
};

/** A fault as the shared code sees it: which kind, how often, how long, and what goes with a status. */
export interface ScriptedFault {
  kind: string;
  count?: number | undefined;
  untilMs?: number | undefined;
  body?: unknown;
  headers?: Record<string, string> | undefined;
  retryAfter?: number | string | undefined;
}

/**
 * The misbehaviours that all providers can show, as options of one union discriminated on `kind`: a provider gives the
 * fields that aim them, the fields that word its own errors, and may add kinds of its own.
 */
export function sharedFaults<Aim extends z.core.$ZodLooseShape, Words extends z.core.$ZodLooseShape>(
  aim: Aim,
  words: Words,
) {
  return [
    z.strictObject({ ...aim, ...words, ...statusFault }),
    z.strictObject({ ...aim, kind: z.literal('delay'), delayMs: z.int().min(1).max(600_000) }),
    z.strictObject({ ...aim, kind: z.literal('drop-before') }),
    z.strictObject({ ...aim, kind: z.literal('drop-after') }),
    z.strictObject({ ...aim, kind: z.literal('html') }),
  ] as const;
}

/** Faults waiting for their requests. The oldest that fits a request is used up first. */
export class FaultScript<Fault extends ScriptedFault, Input = unknown> {
  readonly #schema: z.ZodType<Fault, Input>;
  readonly #now: () => number;
  #scripted: { fault: Fault; left: number; until: number }[] = [];

  constructor(schema: z.ZodType<Fault, Input>, now: () => number = Date.now) {
    this.#schema = schema;
    this.#now = now;
  }

  /** Throws a `ZodError` that names the field on a fault that makes no sense; nothing is scripted then. */
  add(input: Input): Fault {
    const fault = this.#schema.parse(input);
    const { count = fault.untilMs === undefined ? 1 : MAX_COUNT, untilMs = Infinity } = fault;
    this.#scripted.push({ fault, left: count, until: this.#now() + untilMs });
    return { ...fault, count };
  }

  /** The fault this request runs into, if any; used up by one. */
  take(fits: (fault: Fault) => boolean): Fault | undefined {
    this.#forgetSpent();
    const next = this.#scripted.find(({ fault }) => fits(fault));
    if (!next) return undefined;
    next.left -= 1;
    return next.fault;
  }

  /** Those still waiting, each with how often and how long it will yet hit. */
  all(): Fault[] {
    this.#forgetSpent();
    return this.#scripted.map(({ fault, left, until }) =>
      until === Infinity ? { ...fault, count: left } : { ...fault, count: left, untilMs: until - this.#now() },
    );
  }

  clear(): void {
    this.#scripted = [];
  }

  #forgetSpent(): void {
    this.#scripted = this.#scripted.filter(({ left, until }) => left > 0 && until > this.#now());
  }
}

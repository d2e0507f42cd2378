import { z } from 'zod';

const common = {
  count: z.int().min(1).max(100_000).default(1).describe('How many requests it hits'),
  to: z.string().optional().describe('Only requests about this recipient'),
  on: z.enum(['send', 'look-up']).default('send').describe('POST of a message, or any GET'),
};

/** A misbehaviour the simulator shows once or `count` times. */
export const faultSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    ...common,
    kind: z.literal('status'),
    status: z.int().min(400).max(599),
    code: z.int().optional().describe("Twilio's error code; by default the one that goes with the status"),
    retryAfter: z
      .union([z.int().min(0), z.string()])
      .optional()
      .describe('Retry-After: seconds or an HTTP date'),
  }),
  z.strictObject({ ...common, kind: z.literal('delay'), delayMs: z.int().min(1).max(600_000) }),
  z.strictObject({ ...common, kind: z.literal('drop-before') }),
  z.strictObject({ ...common, kind: z.literal('drop-after') }),
  z.strictObject({ ...common, kind: z.literal('html') }),
]);

export type Fault = z.output<typeof faultSchema>;
export type FaultInput = z.input<typeof faultSchema>;

/** Faults waiting for their requests. The oldest that fits a request is used up first. */
export class FaultScript {
  #faults: Fault[] = [];

  add(fault: Fault): void {
    this.#faults.push({ ...fault });
  }

  /** The fault this request runs into, if any; used up by one. */
  take(on: Fault['on'], to: string | undefined): Fault | undefined {
    const fault = this.#faults.find((each) => each.on === on && (each.to === undefined || each.to === to));
    if (!fault) return undefined;
    fault.count -= 1;
    this.#faults = this.#faults.filter(({ count }) => count > 0);
    return fault;
  }

  all(): Fault[] {
    return [...this.#faults];
  }

  clear(): void {
    this.#faults = [];
  }
}

import { z } from 'zod';
import { faultTiming, MAX_COUNT, sharedFaults } from '../shared/faults.ts';
import { requestMatch } from '../shared/match.ts';

const aim = { ...faultTiming, match: requestMatch.optional() };

const words = {
  reason: z
    .string()
    .optional()
    .describe('Of the ErrorInfo, such as SERVICE_DISABLED; of the token endpoint, the error, such as invalid_grant'),
  quotaLimitValue: z.string().optional().describe('Of a 429; "0" says that the project was never approved'),
};

/** A misbehaviour the simulator shows. `match` says to which requests; nothing said means any, token refreshes too. */
export const googleFault = z.discriminatedUnion('kind', [
  ...sharedFaults(aim, words),
  z.strictObject({
    ...aim,
    kind: z.literal('poisoned-page'),
    page: z.int().min(1).default(1).describe('Which page of a listing; the first is 1'),
    as: z.enum(['error', 'malformed']).default('error').describe('500 INTERNAL, or 200 with JSON that breaks off'),
    count: faultTiming.count.default(MAX_COUNT),
  }),
]);

export type GoogleFault = z.output<typeof googleFault>;
export type GoogleFaultInput = z.input<typeof googleFault>;

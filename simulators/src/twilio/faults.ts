import { z } from 'zod';
import { faultTiming, sharedFaults } from '../shared/faults.ts';

const aim = {
  ...faultTiming,
  to: z.string().optional().describe('Only requests about this recipient'),
  on: z.enum(['send', 'look-up']).default('send').describe('POST of a message, or any GET'),
};

const words = {
  code: z.int().optional().describe("Twilio's error code; by default the one that goes with the status"),
};

/** A misbehaviour the simulator shows once or `count` times. */
export const faultSchema = z.discriminatedUnion('kind', sharedFaults(aim, words));

export type Fault = z.output<typeof faultSchema>;
export type FaultInput = z.input<typeof faultSchema>;

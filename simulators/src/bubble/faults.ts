import { z } from 'zod';
import { faultTiming, sharedFaults } from '../shared/faults.ts';
import { requestMatch } from '../shared/match.ts';

/** What a request wants of the Data API. */
export const OPERATIONS = ['search', 'read', 'create', 'update', 'delete', 'bulk'] as const;
export type Operation = (typeof OPERATIONS)[number];

const aim = { ...faultTiming, on: z.enum(OPERATIONS).optional(), match: requestMatch.optional() };

/** A misbehaviour the simulator shows. `on` and `match` say to which requests; nothing said means any. */
export const bubbleFault = z.discriminatedUnion('kind', [
  ...sharedFaults(aim, {}),
  z
    .strictObject({ ...aim, kind: z.literal('partial') })
    .describe('Of a bulk request every second line fails; any other is carried out, and its answer breaks off'),
]);

export type BubbleFault = z.output<typeof bubbleFault>;
export type BubbleFaultInput = z.input<typeof bubbleFault>;

import { z } from 'zod';
import { families, type FamilyName } from './families.ts';

const known = families.map(({ name }) => name) as [FamilyName, ...FamilyName[]];

/** Which families this process knows. What is switched off is left alone: its tables are not touched, its jobs not run. */
export const familiesSetting = {
  FAMILIES: z
    .string()
    .transform((list) => list.split(',').map((name) => name.trim()))
    .pipe(z.array(z.enum(known, { error: `must be a list of ${known.join(', ')}` })).min(1))
    .transform((names): readonly FamilyName[] => [...new Set(names)])
    .default(known)
    .describe('Job families that are switched on, separated by commas; blank means all'),
};

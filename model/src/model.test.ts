import fc from 'fast-check';
import { NAMES, play, tell } from './schedule.ts';
import { VARIANTS, type Variant } from './variants.ts';

/** The same schedules every time. For a longer search: MODEL_SEED=2 MODEL_RUNS=200000 npx jest model/src */
const SEED = Number(process.env.MODEL_SEED ?? 1);
/** Of the correct machine. The variant that hides best is caught within a ninth of it. */
const RUNS = Number(process.env.MODEL_RUNS ?? 5_000);
/** A variant not caught by then passes, and its test fails. */
const MOST_RUNS_OF_A_VARIANT = 6_000;
/** A thousand schedules take about a second, on a busy machine. */
const PATIENCE_MS = 60_000 + RUNS * 5;

const schedules = fc.array(fc.constantFrom(...NAMES), { maxLength: 120, size: 'max' });

/** How many schedules it took, and the shortest found that breaks a promise; undefined when none does. */
function search(runs: number, variant?: Variant): { runs: number; shortest: string[] } | undefined {
  const keepsPromises = fc.property(schedules, (schedule) => play(schedule, variant) === undefined);
  const { counterexample, numRuns } = fc.check(keepsPromises, { seed: SEED, numRuns: runs });
  return counterexample ? { runs: numRuns, shortest: counterexample[0] } : undefined;
}

describe('the machine', () => {
  test(
    `keeps every promise in ${RUNS} random schedules (seed ${SEED})`,
    () => {
      const broken = search(RUNS);
      if (broken) throw new Error(`Seed ${SEED}, schedule ${broken.runs}, shrunk:\n\n${tell(broken.shortest)}\n`);
    },
    PATIENCE_MS,
  );
});

describe('a broken variant is caught', () => {
  const caught: { variant: Variant; 'runs until caught': number; 'steps when shrunk': number; promise: string }[] = [];

  afterAll(() => {
    console.log(
      [`caught with seed ${SEED}: variant | runs until caught | steps when shrunk | the promise it breaks`]
        .concat(caught.map((row) => Object.values(row).join(' | ')))
        .join('\n'),
    );
  });

  test.each(VARIANTS)(
    '%s; and the machine keeps its promises where this one does not',
    (variant) => {
      const broken = search(MOST_RUNS_OF_A_VARIANT, variant);
      if (!broken) throw new Error(`"${variant}" passed ${MOST_RUNS_OF_A_VARIANT} schedules (seed ${SEED}).`);
      const { runs, shortest } = broken;
      caught.push({
        variant,
        'runs until caught': runs,
        'steps when shrunk': shortest.length,
        promise: play(shortest, variant) ?? '',
      });
      if (play(shortest) !== undefined) throw new Error(`The machine breaks a promise as well:\n\n${tell(shortest)}\n`);
    },
    PATIENCE_MS,
  );
});

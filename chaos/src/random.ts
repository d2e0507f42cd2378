import { unsafeUniformIntDistribution, xoroshiro128plus, type RandomGenerator } from 'pure-rand';

/** Chance that repeats itself: the same seed gives the same numbers, on every machine. */
export class Random {
  readonly #generator: RandomGenerator;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed);
  }

  /** A whole number from `min` to `max`, both included. */
  int(min: number, max: number): number {
    return unsafeUniformIntDistribution(min, max, this.#generator);
  }

  /** From 0 to 1, 1 excluded. */
  fraction(): number {
    return this.int(0, 0x3fff_ffff) / 0x4000_0000;
  }

  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  /** Throws on an empty list. */
  pick<T>(list: readonly T[]): T {
    const picked = list[this.int(0, list.length - 1)];
    if (picked === undefined) throw new Error('Nothing to pick from');
    return picked;
  }

  /** The likelier the greater its weight. */
  pickWeighted<T extends { weight: number }>(list: readonly T[]): T {
    let left = this.fraction() * list.reduce((sum, { weight }) => sum + weight, 0);
    const picked = list.find(({ weight }) => (left -= weight) < 0) ?? list.at(-1);
    if (picked === undefined) throw new Error('Nothing to pick from');
    return picked;
  }

  /** A wait between two events that happen `perSecond` times a second on average, milliseconds. */
  gapMs(perSecond: number): number {
    return (-Math.log(1 - this.fraction()) * 1_000) / perSecond;
  }

  shuffle<T>(list: readonly T[]): T[] {
    const shuffled = [...list];
    for (let last = shuffled.length - 1; last > 0; last -= 1) {
      const other = this.int(0, last);
      const [a, b] = [shuffled[last], shuffled[other]];
      if (a !== undefined && b !== undefined) [shuffled[last], shuffled[other]] = [b, a];
    }
    return shuffled;
  }
}

import { randomInt } from 'node:crypto';

/** One thing of a Bubble app: its fields by name, `_id` among them. */
export type Thing = Record<string, unknown> & { _id: string };

export interface Constraint {
  key: string;
  constraint_type: string;
  value?: unknown;
}

/** The things of an app, by type, in the order they were made. */
export class Things {
  readonly #now: () => number;
  readonly #byType = new Map<string, Map<string, Thing>>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Makes a thing; returns its id. */
  add(type: string, fields: Record<string, unknown>): string {
    const at = this.#now();
    const _id = `${at}x${String(randomInt(1e12)).padStart(18, '1')}`;
    const date = new Date(at).toISOString();
    const things = this.#byType.get(type) ?? new Map<string, Thing>();
    this.#byType.set(type, things);
    things.set(_id, { ...fields, _id, 'Created Date': date, 'Modified Date': date });
    return _id;
  }

  /** Changes the given fields; false when there is no such thing. */
  change(type: string, id: string, fields: Record<string, unknown>): boolean {
    const thing = this.find(type, id);
    if (!thing) return false;
    Object.assign(thing, fields, { _id: id, 'Modified Date': new Date(this.#now()).toISOString() });
    return true;
  }

  find(type: string, id: string): Thing | undefined {
    return this.#byType.get(type)?.get(id);
  }

  /** False when there was none. */
  remove(type: string, id: string): boolean {
    return this.#byType.get(type)?.delete(id) ?? false;
  }

  all(type: string): Thing[] {
    return [...(this.#byType.get(type)?.values() ?? [])];
  }

  /** Of which there has been a thing. */
  types(): string[] {
    return [...this.#byType.keys()];
  }

  clear(): void {
    this.#byType.clear();
  }
}

const TESTS: Record<string, (value: unknown, wanted: unknown) => boolean> = {
  equals: (value, wanted) => value === wanted,
  'not equal': (value, wanted) => value !== wanted,
  is_empty: (value) => isEmpty(value),
  is_not_empty: (value) => !isEmpty(value),
  in: (value, wanted) => Array.isArray(wanted) && wanted.includes(value),
  'not in': (value, wanted) => Array.isArray(wanted) && !wanted.includes(value),
};

/** Whether the simulator knows this kind of constraint: ids and emails are looked up, nothing is searched for. */
export function isKnown({ constraint_type }: Constraint): boolean {
  return Object.hasOwn(TESTS, constraint_type);
}

export function meets(thing: Thing, constraints: Constraint[]): boolean {
  return constraints.every(({ key, constraint_type, value }) => TESTS[constraint_type]?.(thing[key], value));
}

/** Numbers by size, all else as text; what has no value comes first. */
export function compareBy(field: string): (a: Thing, b: Thing) => number {
  return ({ [field]: a }, { [field]: b }) => {
    if (isEmpty(a) || isEmpty(b)) return Number(isEmpty(b)) - Number(isEmpty(a));
    return typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
  };
}

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === '';
}

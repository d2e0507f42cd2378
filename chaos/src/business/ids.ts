/** Ids, names and numbers of the made-up world, all from the number of an auto sync: a replay has the same. */
export const ORGANIZER = '00000000-0000-4000-8000-0000000000ff';

const MOST_MEMBERS = 8;

export function syncId(n: number): string {
  return uuid(0xa, n);
}

export function crewId(n: number): string {
  return uuid(0xb, n);
}

export function contactId(n: number, member: number): string {
  return uuid(0xc, n * MOST_MEMBERS + member);
}

/** E.164, of a range nobody has. No two contacts share one. */
export function phoneOf(n: number, member: number): string {
  return `+999${String(n * MOST_MEMBERS + member).padStart(9, '0')}`;
}

/** The auto sync a REST request is about that is about none. */
export function nobodysSync(n: number): string {
  return uuid(0xd, n);
}

function uuid(kind: number, n: number): string {
  return `00000000-0000-4000-800${kind.toString(16)}-${n.toString(16).padStart(12, '0')}`;
}

import { PermanentError } from '@outbox/core';
import { pagesOf } from './paging.ts';
import * as store from './store.ts';
import type { Account } from './store.ts';
import type { Sync } from './sync.ts';

export interface LocationsRead {
  /** Of all that could be read. */
  names: string[];
  unreadable: number;
  written: number;
  deleted: number;
}

/**
 * Reads the list of an account's locations and writes what has changed. A full sync marks as deleted what is not in it any
 * more, if all of it could be read: an unreadable item may be anybody.
 */
export async function syncLocations({
  accountId,
  googleName,
  mode,
  access,
  google,
  context,
}: Sync): Promise<LocationsRead> {
  const { db } = context;
  const listedAt = await store.readClock(db);
  const names = new Set<string>();
  const read = { unreadable: 0, written: 0, deleted: 0 };
  const pages = pagesOf('locations', (pageToken) =>
    access.call((token, signal) => google.listLocations(token, googleName, pageToken, signal)),
  );
  for await (const { items, unreadable } of pages) {
    read.written += await store.recordLocations(db, accountId, items);
    read.unreadable += unreadable;
    for (const { name } of items) names.add(name);
  }
  if (mode === 'full' && read.unreadable === 0) {
    read.deleted = await store.endLocations(db, accountId, [...names], listedAt);
  }
  return { ...read, names: [...names] };
}

const GOOGLE_NAME = /^accounts\/[^/]+$/;

/** Google's name of the account. One that the host does not know yet is asked for, and kept. */
export async function findGoogleName(
  account: Account,
  { access, google, context }: Pick<Sync, 'access' | 'google' | 'context'>,
): Promise<string> {
  const { id, googleName } = account;
  if (googleName !== null) {
    if (GOOGLE_NAME.test(googleName)) return googleName;
    throw new PermanentError(`Account ${id} has a Google name that is none: it must look like accounts/1.`, {
      code: 'google_account_name',
    });
  }
  const names = new Set<string>();
  const pages = pagesOf('accounts', (pageToken) =>
    access.call((token, signal) => google.listAccounts(token, pageToken, signal)),
  );
  for await (const { items } of pages) for (const name of items) names.add(name);
  const [name] = names;
  if (name === undefined || names.size > 1) {
    throw new PermanentError(
      `Account ${id} has no Google name, and its user can manage ${names.size} accounts: write down which one it is.`,
      { code: 'google_account_unclear' },
    );
  }
  await store.recordGoogleName(context.db, id, name);
  return name;
}

import type { JobContext } from '@outbox/core';
import type { GoogleClient } from './google-client.ts';
import type { SyncType } from './job.ts';
import type { Access } from './tokens.ts';

/** One run of a sync, as its parts need it. */
export interface Sync {
  accountId: string;
  /** E.g. `accounts/1`. */
  googleName: string;
  /** What is done: an account that was never synced in full is, whatever was asked for. */
  mode: SyncType;
  access: Access;
  google: GoogleClient;
  context: JobContext;
}

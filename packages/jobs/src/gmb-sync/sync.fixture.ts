import { SECOND, type Outcome } from '@outbox/core';
import { startGoogleSimulator, type GoogleSimulator } from '@outbox/simulators';
import { handlerContext } from '@outbox/testing';
import { addAccount, rowsOf, type AccountWish, type Gmb, type Row, type TestAccount } from './gmb.fixture.ts';
import { createGoogleClient } from './google-client.ts';
import { simulated } from './google-settings.ts';
import { GMB_LIMITS, handleGmbSync, type GmbLimits } from './handler.ts';
import type { SyncType } from './job.ts';

/** An account of the host's that is one of the simulator's. Only tests import this. */
export interface ConnectedAccount extends TestAccount {
  /** E.g. `accounts/1`. */
  googleName: string;
  refreshToken: string;
}

export interface SyncJob {
  /** The id of gmb.sync_queue. */
  id: string;
  /** Runs the handler once, with what a worker may do and no more. */
  attempt(limits?: Partial<GmbLimits>): Promise<Outcome>;
  /** All values of its progress, of all attempts. */
  progress: unknown[];
}

export interface Handling {
  readonly google: GoogleSimulator;
  /** An account that both sides know. */
  connect(wish?: AccountWish): Promise<ConnectedAccount>;
  /** A claimed sync of it. */
  begin(account: TestAccount, syncType: SyncType): Promise<SyncJob>;
  /** A sync that has to succeed at once; gives its outcome. */
  sync(account: TestAccount, syncType: SyncType): Promise<Outcome>;
  /** Locations and reviews as the host has them, by name. */
  locations(account: TestAccount): Promise<Row[]>;
  reviews(account: TestAccount): Promise<Row[]>;
  /** Paths of what the simulator was asked since, in order. */
  asked(): string[];
}

/** The handler and the Google it calls, anew for each test. Call it at the top of the file. */
export function useHandling(gmb: Gmb): Handling {
  let google: GoogleSimulator;
  let accounts = 0;

  beforeEach(async () => void (google = await startGoogleSimulator()));
  afterEach(() => google.close());

  const handling: Handling = {
    get google() {
      return google;
    },

    connect: async (wish = {}) => {
      accounts += 1;
      const googleName = `accounts/${accounts}`;
      const refreshToken = `refresh-${accounts}`;
      google.addAccount({ name: googleName, refreshToken });
      const account = await addAccount(gmb.database.pool, { googleName, refreshToken, ...wish });
      return { ...account, googleName, refreshToken };
    },

    begin: async (account, syncType) => {
      const { id } = await gmb.ask(account, { syncType });
      await gmb.change(id, 'publish');
      await gmb.change(id, 'claim');
      const jobId = String((await gmb.job(id)).id);
      const progress: unknown[] = [];
      const client = createGoogleClient({ ...simulated(google.url), timeoutMs: 1 * SECOND });
      return {
        id,
        progress,
        attempt: (limits = {}) =>
          handleGmbSync(
            { accountId: account.id, syncType },
            handlerContext(gmb.worker, {
              jobId,
              onProgress: (value) => progress.push(value),
              dependencies: { google: client, gmbLimits: { ...GMB_LIMITS, ...limits } },
            }),
          ),
      };
    },

    sync: async (account, syncType) => {
      const job = await handling.begin(account, syncType);
      const outcome = await job.attempt();
      await gmb.change(job.id, 'completed');
      return outcome;
    },

    locations: ({ id }) =>
      rowsOf(
        gmb.database.pool,
        `select location_id as name, title, deleted_at is not null as deleted
         from public.gmb_locations where account_id = $1 order by length(location_id), location_id`,
        [id],
      ),

    reviews: ({ id }) =>
      rowsOf(
        gmb.database.pool,
        `select review_id as name, comment, rating, reply, deleted_at is not null as deleted
         from public.gmb_reviews where account_id = $1 order by length(review_id), review_id`,
        [id],
      ),

    asked: () => google.requests().map(({ path }) => path),
  };
  return handling;
}

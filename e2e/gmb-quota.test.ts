import { MINUTE, SECOND } from '@outbox/core';
import { atFullSize, waitFor } from '@outbox/testing';
import { useGmbWorld, type Account } from './gmb.fixture.ts';

const world = useGmbWorld();

const { syncs: SYNCS, outageMs: OUTAGE_MS } = atFullSize()
  ? { syncs: 100, outageMs: 1 * MINUTE }
  : { syncs: 20, outageMs: 10 * SECOND };

/** Of the Cloud project. A sync of these accounts makes three calls: a token, the locations, the reviews of one. */
const QUOTA_PER_MINUTE = 300;

it(
  `${SYNCS} syncs while Google refuses everything for ${OUTAGE_MS / SECOND} s all succeed, spend no attempt, and stay below the quota`,
  async () => {
    const accounts: Account[] = [];
    for (let n = 0; n < SYNCS; n += 1) accounts.push(await world.connect());
    world.google.fault({ kind: 'status', status: 429, untilMs: OUTAGE_MS });
    await Promise.all([world.start('bridge'), world.start('worker'), world.start('worker')]);
    for (const account of accounts) await world.ask(account, 'full');

    const byStatus = async () =>
      world.asService(
        'select status, count(*)::int as syncs, max(attempts) as attempts from sync_queue group by status',
      );
    await waitFor(async () => expect(await byStatus()).toEqual([{ status: 'succeeded', syncs: SYNCS, attempts: 1 }]), {
      timeoutMs: 4 * MINUTE,
      intervalMs: 1 * SECOND,
    });
    const { rows: spent } = await world.db.pool.query(
      "select outcome from outbox.attempts where outcome not in ('completed', 'parked')",
    );
    expect(spent).toEqual([]);
    expect(world.google.highestPerMinute()).toBeLessThanOrEqual(QUOTA_PER_MINUTE);
    const { rows: reviews } = await world.db.pool.query('select from gmb_reviews');
    expect(reviews).toHaveLength(SYNCS);
  },
  5 * MINUTE,
);

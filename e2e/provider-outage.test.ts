import { setTimeout as sleep } from 'node:timers/promises';
import { MINUTE, SECOND } from '@outbox/core';
import { startBubbleSimulator } from '@outbox/simulators';
import { atFullSize, createTestDatabase, createTestPrefix, startService, waitFor } from '@outbox/testing';

/**
 * At full size everything is as it is shipped; otherwise the first probe comes as much sooner as the outage is shorter. The
 * first failures of an outage come back after their backoff, a minute, however short it was.
 */
const { outageMs, probeAfter, backWithinMs } = atFullSize()
  ? { outageMs: 5 * MINUTE, probeAfter: undefined, backWithinMs: 2 * MINUTE }
  : { outageMs: 15 * SECOND, probeAfter: '3 s', backWithinMs: 75 * SECOND };

const SIGN_UPS_BEFORE = 20;
const SIGN_UPS_MEANWHILE = 10;

/** Undone in reverse. */
const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

it(
  `Bubble is away for ${outageMs / SECOND} s: no sign-up spends an attempt, all are there within ${backWithinMs / SECOND} s of its return`,
  async () => {
    const prefix = createTestPrefix();
    cleanups.push(() => prefix.removeKeys());
    const db = await createTestDatabase();
    cleanups.push(() => db.drop());
    const app = await startBubbleSimulator();
    cleanups.push(() => app.close());
    if (probeAfter !== undefined) await db.pool.query('update outbox.providers set probe_after = $1', [probeAfter]);
    const shared = {
      DATABASE_URL: db.url,
      OUTBOX_INSTANCE: 'test',
      REDIS_URL: prefix.redisUrl,
      QUEUE_PREFIX: prefix.prefix,
      FAMILIES: 'bubble',
    };
    const start = async (name: 'bridge' | 'worker', env: Record<string, string> = {}) => {
      const service = await startService(name, { ...shared, DATABASE_ROLE: `outbox_${name}`, ...env });
      cleanups.push(() => service.kill('SIGKILL'));
    };
    await Promise.all([start('bridge'), start('worker', { BUBBLE_SIMULATOR_URL: app.url })]);
    const signUp = (from: number, to: number) =>
      db.pool.query(
        `insert into public.users (email) select n || '@example.com' from generate_series($1::int, $2::int) n`,
        [from, to],
      );

    app.fault({ kind: 'status', status: 503, untilMs: outageMs });
    const backAt = performance.now() + outageMs;
    await signUp(1, SIGN_UPS_BEFORE);
    for (let n = 1; n <= SIGN_UPS_MEANWHILE; n += 1) {
      await signUp(SIGN_UPS_BEFORE + n, SIGN_UPS_BEFORE + n);
      await sleep(backAt - outageMs * (1 - n / SIGN_UPS_MEANWHILE) - performance.now());
    }
    const askedMeanwhile = app.requests().length;

    await waitFor(() => expect(app.count('user')).toBe(SIGN_UPS_BEFORE + SIGN_UPS_MEANWHILE), {
      timeoutMs: backWithinMs - Math.max(0, performance.now() - backAt),
      intervalMs: 100,
    });
    await waitFor(async () => {
      const { rows } = await db.pool.query('select state, attempt from outbox.jobs group by state, attempt');
      expect(rows).toEqual([{ state: 'completed', attempt: 1 }]);
    });
    // While it was away it was asked until the breaker opened, by those under way then, and by a few probes.
    expect(askedMeanwhile).toBeLessThan(SIGN_UPS_BEFORE);
  },
  outageMs + backWithinMs + MINUTE,
);

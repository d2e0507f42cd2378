import { envDuration, envInteger, envPort, HOUR, MINUTE, SECOND, sharedSettings, withQueueBackend } from '@outbox/core';
import { familiesSetting } from '@outbox/jobs';
import { z } from 'zod';

/** Settings of the bridge; `.env.example` is written from these descriptions. */
export const bridgeSettings = withQueueBackend(
  sharedSettings.extend({
    ...familiesSetting,
    PUBLISH_BATCH: envInteger(1, 5_000).default(500).describe('Most rows of one publish'),
    PUBLISH_WINDOW: envDuration(60 * SECOND, 24 * 365 * HOUR)
      .default(72 * HOUR)
      .describe('Rows due later than this from now wait in Postgres, e.g. 72h'),
    POLL_INTERVAL: envDuration(10, 1 * SECOND)
      .default(500)
      .describe('Longest sleep between two looks at the outbox, e.g. 500ms; a missed notification costs so much'),
    SWEEP_INTERVAL: envDuration(1 * SECOND, 1 * HOUR)
      .default(1 * MINUTE)
      .describe('How often the bridge looks for changes that the triggers could not capture, e.g. 1m'),
    WAKE_UP: z
      .enum(['listen', 'poll'], { error: 'must be listen or poll' })
      .default('listen')
      .describe('How the bridge notices new rows: listen (LISTEN/NOTIFY), or poll behind a transaction pooler'),
    HEALTH_PORT: envPort.default(4001).describe('Port of /healthz and /readyz'),
  }),
);

export type BridgeSettings = z.output<typeof bridgeSettings>;

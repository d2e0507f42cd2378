import { envDuration, envInteger, envPort, MINUTE, SECOND, sharedSettings, withQueueBackend } from '@outbox/core';
import { familiesSetting, queueNames } from '@outbox/jobs';
import { checkHandlerSettings, handlerSettings } from '@outbox/jobs/handlers';
import { z } from 'zod';

const knownQueues = queueNames();

/** Settings of the worker; `.env.example` is written from these descriptions. */
export const workerSettings = withQueueBackend(
  sharedSettings.extend({
    ...familiesSetting,
    ...handlerSettings.shape,
    QUEUES: z
      .string()
      .transform((list) => list.split(',').map((name) => name.trim()))
      .pipe(z.array(z.enum(knownQueues, { error: `must be a list of ${knownQueues.join(', ')}` })).min(1))
      .optional()
      .describe('Queues this worker serves, separated by commas; blank means all of its families'),
    CONCURRENCY: envInteger(1, 1_000).default(20).describe('Jobs of one queue this process runs at the same time'),
    LEASE: envDuration(1 * SECOND, 10 * MINUTE)
      .default(15 * SECOND)
      .describe('How long a crashed worker holds its jobs, e.g. 15s'),
    STALLED_INTERVAL: envDuration(500, 5 * MINUTE)
      .default(10 * SECOND)
      .describe('How often BullMQ looks for jobs of crashed workers, e.g. 10s'),
    DRAIN: envDuration(0, 10 * MINUTE)
      .default(50 * SECOND)
      .describe('On SIGTERM, running jobs may finish for so long before they are handed back, e.g. 50s'),
    WEDGED_AFTER: envDuration(1 * SECOND, 60 * MINUTE)
      .default(90 * SECOND)
      .describe('Taking no job for so long although some wait makes /healthz fail, e.g. 90s'),
    HEALTH_PORT: envPort.default(4002).describe('Port of /healthz and /readyz'),
  }),
).superRefine(checkHandlerSettings);

export type WorkerSettings = z.output<typeof workerSettings>;

import { envPort, sharedSettings } from '@outbox/core';
import { z } from 'zod';

/** Settings of the simulator process. */
export const simulatorSettings = z.object({
  PORT: envPort.default(4010).describe('Port of the simulators'),
  HOST: z.string().default('127.0.0.1').describe('Address it listens on; 0.0.0.0 in a container'),
  LOG_LEVEL: sharedSettings.shape.LOG_LEVEL,
});

import { loadConfig, runService, SECOND } from '@outbox/core';
import { simulatorSettings } from './config.ts';
import { startTwilioSimulator } from './twilio/simulator.ts';

await runService({
  name: 'simulator',
  loadSettings: () => loadConfig(simulatorSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async ({ PORT, HOST }, log) => {
    const twilio = await startTwilioSimulator({ port: PORT, host: HOST });
    log.info({ url: twilio.url }, 'twilio simulator listening');
    return [{ name: 'http server', deadlineMs: 2 * SECOND, stop: () => twilio.close() }];
  },
});

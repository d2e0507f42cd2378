import { loadConfig, runService, SECOND } from '@outbox/core';
import { simulatorSettings } from './config.ts';
import { startSimulators } from './simulators.ts';

await runService({
  name: 'simulator',
  loadSettings: () => loadConfig(simulatorSettings, process.env),
  logLevel: (settings) => settings.LOG_LEVEL,
  start: async ({ PORT, HOST }, log) => {
    const simulators = await startSimulators({ port: PORT, host: HOST });
    log.info({ url: simulators.url }, 'simulators listening');
    return [{ name: 'http server', deadlineMs: 2 * SECOND, stop: () => simulators.close() }];
  },
});

import { createLogger, type Logger } from './logger.ts';
import { ConfigError, UnavailableError } from './errors.ts';

/** One step of stopping, in order: intake first, then work in hand, then connections. */
export interface ShutdownPhase {
  name: string;
  /** The next phase begins after this time at the latest. */
  deadlineMs: number;
  stop: () => Promise<unknown> | void;
}

export interface ServiceOptions<Settings> {
  name: string;
  loadSettings: () => Settings;
  logLevel: (settings: Settings) => string;
  /** Starts everything and returns how to stop it. */
  start: (settings: Settings, log: Logger) => Promise<ShutdownPhase[]>;
}

/**
 * Runs a process until SIGTERM or SIGINT, then its phases, then exits 0. A second signal exits at once with 1. What a
 * person can mend (a setting, a server that is down) is one line on standard error and exit code 1, without a stack.
 */
export async function runService<Settings>(options: ServiceOptions<Settings>): Promise<void> {
  try {
    const settings = options.loadSettings();
    const log = createLogger({ service: options.name, level: options.logLevel(settings) });
    const phases: ShutdownPhase[] = [];
    stopOnSignal(phases, log);
    phases.push(...(await options.start(settings, log)));
    log.info('service started');
  } catch (error) {
    if (error instanceof ConfigError || error instanceof UnavailableError) {
      process.stderr.write(`${options.name}: ${error.message}\n`);
    } else {
      process.stderr.write(`${options.name}: ${error instanceof Error ? error.stack : String(error)}\n`);
    }
    process.exit(1);
  }
}

/** Listens from the beginning: as the first process of a container, nobody else would end us while we still start. */
function stopOnSignal(phases: ShutdownPhase[], log: Logger): void {
  let stopping = false;
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info({ signal }, 'service stopping');
    await runPhases(phases, log);
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  // Started over a channel (npm start): when that process is gone, nobody is left to stop this one.
  process.once('disconnect', () => void stop('SIGTERM'));
}

/** Runs every phase even when one fails or overruns: a stuck worker must not keep the pools open for ever. */
export async function runPhases(phases: ShutdownPhase[], log: Logger): Promise<void> {
  for (const { name, deadlineMs, stop } of phases) {
    let timer: NodeJS.Timeout | undefined;
    const overrun = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`${name} took longer than ${deadlineMs} ms`)), deadlineMs);
    });
    await Promise.race([Promise.resolve().then(stop), overrun]).catch((err: unknown) =>
      log.error({ err, phase: name }, 'shutdown phase failed'),
    );
    clearTimeout(timer);
  }
}

import { endTestRun, startTestRun } from './test-run.ts';

/** Jest calls this once, before the first test file. */
export default async function globalSetup(): Promise<void> {
  endOnSignal('SIGHUP', 129);
  endOnSignal('SIGINT', 130);
  endOnSignal('SIGTERM', 143);
  try {
    await startTestRun();
  } catch (error) {
    // Jest does not call the tear-down after a failed set-up.
    await endTestRun(false);
    throw error;
  }
}

/** The servers are no children of the terminal: Ctrl-C does not reach them, and Jest alone would leave them running. */
function endOnSignal(signal: NodeJS.Signals, exitCode: number): void {
  process.once(signal, () => void endTestRun(false).finally(() => process.exit(exitCode)));
}

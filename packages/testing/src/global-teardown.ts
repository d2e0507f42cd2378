import { failuresSeen } from './reporter.ts';
import { endTestRun } from './test-run.ts';

/** Jest calls this once, after the last test file. With KEEP=1 a failed run keeps its servers and databases. */
export default async function globalTeardown(): Promise<void> {
  await endTestRun(process.env.KEEP === '1' && failuresSeen());
}

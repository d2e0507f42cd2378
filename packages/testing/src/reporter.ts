import { writeFileSync } from 'node:fs';

/** What this reporter reads of Jest's result. */
interface RunResult {
  numPassedTests: number;
  numFailedTests: number;
  /** Files that failed before or after their tests: one that does not compile, a leak. */
  numRuntimeErrorTestSuites: number;
}

const counts = { passed: 0, failed: 0 };

export function failuresSeen(): boolean {
  return counts.failed > 0;
}

/** Remembers how the run ended, and writes it to the file that `npm test` names in OUTBOX_TEST_COUNTS. */
export default class CountingReporter {
  onRunComplete(_contexts: unknown, result: RunResult): void {
    counts.passed = result.numPassedTests;
    counts.failed = result.numFailedTests + result.numRuntimeErrorTestSuites;
    const file = process.env.OUTBOX_TEST_COUNTS;
    if (file) writeFileSync(file, JSON.stringify(counts));
  }
}

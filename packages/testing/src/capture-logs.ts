import { createLogger, type Logger } from '@outbox/core';

/** A line as it is written: the level is a word, the rest is whatever the caller logged. */
export interface LogLine extends Record<string, unknown> {
  level: string;
  msg: string;
}

/** A logger of every level that writes into `lines`, through the same redaction as in production. */
export function captureLogs(): { log: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const destination = { write: (line: string) => void lines.push(parseLine(line)) };
  return { log: createLogger({ service: 'test', level: 'trace', destination }), lines };
}

function parseLine(line: string): LogLine {
  const parsed: unknown = JSON.parse(line);
  if (isLogLine(parsed)) return parsed;
  throw new Error(`Not a log line: ${line}`);
}

function isLogLine(value: unknown): value is LogLine {
  return typeof value === 'object' && value !== null && 'level' in value && typeof value.level === 'string';
}

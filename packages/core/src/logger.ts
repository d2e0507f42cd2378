import { pino, type DestinationStream, type Logger } from 'pino';

export type { Logger } from 'pino';

/** Fields that must never reach a log, at the top of a line or one level below. */
const SECRET_FIELDS = ['password', 'token', 'authToken', 'secret', 'authorization', 'cookie', 'phone', 'to', 'body'];

export interface LoggerOptions {
  service: string;
  level: string;
  destination?: DestinationStream;
}

/**
 * One JSON line per event on standard output. The sentence is constant; what varies is in fields. Secrets and phone
 * numbers are redacted by field name.
 */
export function createLogger({ service, level, destination }: LoggerOptions): Logger {
  const options = {
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.err },
    redact: { paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]), censor: '[redacted]' },
  };
  return destination ? pino(options, destination) : pino(options);
}

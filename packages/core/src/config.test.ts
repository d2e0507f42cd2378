import { z } from 'zod';
import {
  envBoolean,
  envDuration,
  envInteger,
  envPort,
  loadConfig,
  sharedSettings,
  withQueueBackend,
  type SharedSettings,
} from './config.ts';
import { DAY, HOUR, SECOND } from './durations.ts';
import { ConfigError } from './errors.ts';

const VALID = {
  DATABASE_URL: 'postgres://app:pa55word@db.example:5432/app',
  OUTBOX_INSTANCE: 'production',
  REDIS_URL: 'redis://cache.example:6379',
};

const schema = withQueueBackend(sharedSettings);

function load(env: Record<string, string | undefined>): SharedSettings {
  return loadConfig(schema, env);
}

function refusalOf(env: Record<string, string | undefined>): string {
  try {
    load(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('The settings were accepted.');
}

describe('loadConfig', () => {
  test('names every bad variable at once, on one line', () => {
    const message = refusalOf({
      OUTBOX_INSTANCE: 'not a name!',
      QUEUE_BACKEND: 'kafka',
      REDIS_URL: 'http://cache.example',
      QUEUE_PREFIX: 'a:b',
      LOG_LEVEL: 'loud',
      DATABASE_ROLE: 'worker; drop table',
    });
    expect(message.split('; ').map((issue) => issue.split(':')[0])).toEqual([
      'DATABASE_URL',
      'DATABASE_ROLE',
      'OUTBOX_INSTANCE',
      'QUEUE_BACKEND',
      'REDIS_URL',
      'QUEUE_PREFIX',
      'LOG_LEVEL',
    ]);
    expect(message).not.toContain('\n');
  });

  test('does not repeat a wrong value, which may hold a password', () => {
    const message = refusalOf({ ...VALID, DATABASE_URL: 'mysql://app:pa55word@db.example/app' });
    expect(message).toBe('DATABASE_URL: must look like postgres://user:password@host:5432/database');
  });

  test.each(['', '   ', undefined])('takes a blank variable (%j) for one that is not set', (blank) => {
    expect(load({ ...VALID, LOG_LEVEL: blank, DATABASE_ROLE: blank })).toEqual({
      ...VALID,
      DATABASE_POOLED: false,
      QUEUE_BACKEND: 'redis',
      QUEUE_PREFIX: 'outbox',
      LOG_LEVEL: 'info',
    });
    expect(refusalOf({ ...VALID, OUTBOX_INSTANCE: blank })).toContain('OUTBOX_INSTANCE: is missing');
  });

  test('gives an object that nobody can change', () => {
    expect(Object.isFrozen(load(VALID))).toBe(true);
  });
});

describe('withQueueBackend', () => {
  test('Redis needs a REDIS_URL, and the refusal says what to set', () => {
    expect(refusalOf({ ...VALID, REDIS_URL: undefined })).toBe(
      'REDIS_URL: is missing: set it to redis://host:6379, or set QUEUE_BACKEND=postgres',
    );
  });

  test('names a missing REDIS_URL together with whatever else is wrong', () => {
    const message = refusalOf({ DATABASE_URL: VALID.DATABASE_URL });
    expect(message).toContain('OUTBOX_INSTANCE: is missing');
    expect(message).toContain('REDIS_URL: is missing');
  });

  test('Postgres as the backend needs none', () => {
    expect(load({ ...VALID, REDIS_URL: undefined, QUEUE_BACKEND: 'postgres' })).not.toHaveProperty('REDIS_URL');
  });

  test('TLS is a protocol of Redis too', () => {
    expect(load({ ...VALID, REDIS_URL: 'rediss://cache.example:6380' })).toMatchObject({
      REDIS_URL: 'rediss://cache.example:6380',
    });
  });
});

describe('envBoolean', () => {
  test.each([
    ['true', true],
    ['1', true],
    ['yes', true],
    ['false', false],
    ['0', false],
    ['no', false],
  ])('%s is %s', (text, value) => expect(envBoolean.parse(text)).toBe(value));

  test.each(['TRUE ', 'on', '2', 'nope', ''])('%j is refused, not taken for true or false', (text) => {
    expect(envBoolean.safeParse(text).error?.issues).toMatchObject([{ message: 'must be true or false' }]);
  });
});

describe('envInteger and envPort', () => {
  test.each([
    ['-3', -3],
    ['0', 0],
    ['7', 7],
  ])('%s is in range, bounds included', (text, value) => expect(envInteger(-3, 7).parse(text)).toBe(value));

  test.each(['-4', '8', '1.5', '1e0', '0x1', ' 1', '1s', '', '99999999999999999999'])('%j is refused', (text) => {
    expect(envInteger(-3, 7).safeParse(text).error?.issues[0]?.message).toBe('must be a whole number from -3 to 7');
  });

  test.each([
    ['0', true],
    ['65535', true],
    ['65536', false],
    ['-1', false],
    ['80a', false],
  ])('port %s: %s', (text, accepted) => expect(envPort.safeParse(text).success).toBe(accepted));
});

describe('envDuration', () => {
  const duration = envDuration(100, 3 * DAY);

  test.each([
    ['100ms', 100],
    ['30s', 30 * SECOND],
    ['2m', 120 * SECOND],
    ['5h', 5 * HOUR],
    ['3d', 3 * DAY],
  ])('%s is %i milliseconds', (text, ms) => expect(duration.parse(text)).toBe(ms));

  test.each(['30', '30 s', '30s ', '30sec', '1.5h', '-1s', 's', '1w', '99ms', '4d', ''])(
    '%j is refused with an example',
    (text) => {
      expect(duration.safeParse(text).error?.issues[0]?.message).toBe(
        `must be a duration such as 30s or 72h, from 100 ms to ${3 * DAY} ms`,
      );
    },
  );
});

test('a service adds settings of its own to the shared ones, and all of them are reported together', () => {
  const own = withQueueBackend(sharedSettings.extend({ PORT: envPort.default(3000), DRAIN: z.string() }));
  expect(() => loadConfig(own, { ...VALID, OUTBOX_INSTANCE: '!', PORT: 'http' })).toThrow(
    /OUTBOX_INSTANCE: .*; PORT: .*; DRAIN: /,
  );
});

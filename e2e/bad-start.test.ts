import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import {
  createTestDatabase,
  createTestPrefix,
  ServiceExitedError,
  startService,
  type TestDatabase,
} from '@outbox/testing';

let db: TestDatabase;
let taken: Server;
let takenPort: string;

beforeAll(async () => {
  db = await createTestDatabase();
  taken = createServer().listen(0);
  await once(taken, 'listening');
  takenPort = String((taken.address() as AddressInfo).port);
});

afterAll(async () => {
  taken.close();
  await db.drop();
});

const good = () => ({
  DATABASE_URL: db.url,
  OUTBOX_INSTANCE: 'test',
  REDIS_URL: createTestPrefix().redisUrl,
  SERVICE_KEYS: 'sb_secret_for_this_test',
  BOARD_PASSWORD: 'board password',
  SESSION_SECRETS: 'x'.repeat(32),
});

const CLOSED = '127.0.0.1:9';

/** Each: what is wrong, the settings, and what the one line must say. */
const cases: [string, Record<string, string>, RegExp][] = [
  ['no DATABASE_URL', { DATABASE_URL: '' }, /DATABASE_URL: is missing/],
  ['no OUTBOX_INSTANCE', { OUTBOX_INSTANCE: ' ' }, /OUTBOX_INSTANCE: is missing/],
  ['no REDIS_URL', { REDIS_URL: '' }, /REDIS_URL: is missing.*QUEUE_BACKEND=postgres/],
  ['two wrong settings', { LOG_LEVEL: 'loud', QUEUE_BACKEND: 'mysql' }, /QUEUE_BACKEND: must be.*LOG_LEVEL: must be/],
  ['a database of another installation', { OUTBOX_INSTANCE: 'staging' }, /belongs to instance "test".*"staging"/],
  ['another queue backend', { QUEUE_BACKEND: 'postgres' }, /served by QUEUE_BACKEND=redis/],
  [
    'Postgres unreachable',
    { DATABASE_URL: `postgres://u:hush@${CLOSED}/x` },
    /Postgres at 127\.0\.0\.1:9\/x does not answer/,
  ],
  ['Redis unreachable', { REDIS_URL: `redis://${CLOSED}` }, /Redis at 127\.0\.0\.1:9 does not answer.*REDIS_URL/],
];

describe.each(['bridge', 'worker', 'api'] as const)('the %s', (service) => {
  it.each(cases)('refuses to start, in one line, with %s', async (_title, wrong, message) => {
    const error = await startService(service, { ...good(), ...wrong }).then(
      () => undefined,
      (refusal: unknown) => refusal,
    );
    expect(error).toBeInstanceOf(ServiceExitedError);
    const { exit, stderr } = error as ServiceExitedError;
    expect(exit).toEqual({ code: 1, signal: null });
    expect(stderr.trim()).toMatch(message);
    expect(stderr.trim()).not.toContain('\n');
    expect(stderr).not.toContain('hush');
  });

  it('refuses a port that is taken, and names the setting', async () => {
    const setting = service === 'api' ? 'PORT' : 'HEALTH_PORT';
    await expect(startService(service, { ...good(), [setting]: takenPort })).rejects.toThrow(
      new RegExp(`${service}: Port ${takenPort} is already in use\\. Free it, or set ${setting}`),
    );
  });
});

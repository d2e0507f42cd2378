import { createTestDatabase, createTestPrefix, startService, waitFor, type ServiceName } from '@outbox/testing';

const KINDS: ServiceName[] = ['api', 'bridge', 'worker'];

it('each process is in outbox.services while it runs; one that stops leaves, one that is killed stays', async () => {
  const db = await createTestDatabase();
  const prefix = createTestPrefix();
  const start = (name: ServiceName) =>
    startService(name, {
      DATABASE_URL: db.url,
      DATABASE_ROLE: `outbox_${name}`,
      OUTBOX_INSTANCE: 'test',
      REDIS_URL: prefix.redisUrl,
      QUEUE_PREFIX: prefix.prefix,
      ...(name === 'api' && {
        SERVICE_KEYS: 'sb_secret_for_this_test',
        BOARD_PASSWORD: 'board password',
        SESSION_SECRETS: 'x'.repeat(32),
      }),
    });
  const present = async () => {
    const { rows } = await db.pool.query<{ service: string; id: string }>(
      'select service, id from outbox.services order by service',
    );
    return rows;
  };

  for (const stopped of [true, false]) {
    const services = await Promise.all(KINDS.map(start));
    // A service answers that it is ready a moment before it gives its first sign of life.
    const rows = await waitFor(async () => {
      const there = await present();
      expect(there.map(({ service }) => service)).toEqual(KINDS);
      return there;
    });
    expect(rows.map(({ id }) => Number(id.split(':').at(-2)))).toEqual(services.map(({ pid }) => pid));
    await Promise.all(services.map((service) => service.kill(stopped ? 'SIGTERM' : 'SIGKILL')));
    expect(await present()).toEqual(stopped ? [] : rows);
  }
  await db.drop();
  await prefix.removeKeys();
}, 60_000);

import { startBubbleSimulator, type BubbleSimulator } from '@outbox/simulators';
import {
  createTestDatabase,
  createTestPrefix,
  startService,
  waitFor,
  type RunningService,
  type TestDatabase,
  type TestPrefix,
} from '@outbox/testing';

interface World {
  db: TestDatabase;
  prefix: TestPrefix;
  app: BubbleSimulator;
  services: RunningService[];
}

let world: World;

beforeEach(async () => {
  const [db, app] = await Promise.all([createTestDatabase(), startBubbleSimulator()]);
  world = { db, app, prefix: createTestPrefix(), services: [] };
  await db.pool.query("update outbox.job_types set operator_backoff = '200 ms' where name = 'bubble_user_sync'");
});

afterEach(async () => {
  await Promise.all(world.services.map((service) => service.kill('SIGKILL')));
  await world.app.close();
  await world.db.drop();
  await world.prefix.removeKeys();
});

async function start(name: 'bridge' | 'worker', env: Record<string, string> = {}): Promise<RunningService> {
  const service = await startService(name, {
    DATABASE_URL: world.db.url,
    DATABASE_ROLE: `outbox_${name}`,
    OUTBOX_INSTANCE: 'test',
    REDIS_URL: world.prefix.redisUrl,
    QUEUE_PREFIX: world.prefix.prefix,
    ...(name === 'worker' ? { BUBBLE_SIMULATOR_URL: world.app.url, BUBBLE_TIMEOUT_MS: '1000' } : {}),
    ...env,
  });
  world.services.push(service);
  return service;
}

async function query<Row extends Record<string, unknown>>(sql: string, values?: unknown[]): Promise<Row[]> {
  return (await world.db.pool.query<Row>(sql, values)).rows;
}

async function signUp(email: string): Promise<string> {
  const [user] = await query<{ id: string }>(
    `insert into public.users (email, first_name) values ($1, 'Ada') returning id`,
    [email],
  );
  return user?.id ?? '';
}

const rename = (userId: string, firstName: string) =>
  query('update public.users set first_name = $2 where id = $1', [userId, firstName]);

interface QueueRow extends Record<string, unknown> {
  status: string;
  retry_count: number;
}

/** The rows of `bubble.sync_queue`, the oldest first. */
const queueRows = () =>
  query<QueueRow>('select status, retry_count, metadata from bubble.sync_queue order by created_at, id');

/** Every sync is over and went well. */
const untilCompleted = (count: number, timeoutMs = 15_000) =>
  waitFor(
    async () => {
      expect((await queueRows()).map(({ status }) => status)).toEqual(Array<string>(count).fill('completed'));
    },
    { timeoutMs },
  );

/** What Bubble has, and what the application knows of it, agree: one user there for each here, as it stands. */
async function expectCopied(): Promise<void> {
  const users = await query<{ id: string; bubble_id: string; first_name: string; email: string }>(
    'select id, bubble_id, first_name, email from public.users order by id',
  );
  const things = world.app.things('user').map((thing) => ({
    ...{ id: thing.external_id, bubble_id: thing._id, first_name: thing.first_name, email: thing.email },
  }));
  expect(things.sort((a, b) => String(a.id).localeCompare(String(b.id)))).toEqual(users);
}

it('a sign-up is created in Bubble, a change of it is updated there, and what is written back causes no third copy', async () => {
  await Promise.all([start('bridge'), start('worker')]);
  const userId = await signUp('ada@example.com');
  await untilCompleted(1);
  await expectCopied();

  await rename(userId, 'Augusta');
  await untilCompleted(2);
  await expectCopied();
  expect(world.app.requests().map(({ method }) => method)).toEqual(['GET', 'GET', 'POST', 'PATCH']);
  expect(await query('select * from bubble.health_check()')).toMatchObject([
    { pending_items: '0', failed_items: '0', completed_today: '2' },
  ]);
});

it('several changes before a worker runs become one copy of the latest state; a rolled-back sign-up none', async () => {
  const userId = await signUp('ada@example.com');
  for (const name of ['Grace', 'Joan', 'Mary']) await rename(userId, name);
  const client = await world.db.pool.connect();
  await client.query('begin');
  await client.query(`insert into public.users (email) values ('never@example.com')`);
  await client.query('rollback');
  client.release();

  await Promise.all([start('bridge'), start('worker')]);
  await untilCompleted(1);
  await expectCopied();
  expect(world.app.things('user')).toMatchObject([{ first_name: 'Mary' }]);
  expect(world.app.requests().map(({ method }) => method)).toEqual(['GET', 'GET', 'POST']);
});

it('a user deleted before its copy runs never reaches Bubble', async () => {
  await signUp('ada@example.com');
  await query('delete from public.users');
  await Promise.all([start('bridge'), start('worker')]);
  await signUp('grace@example.com');
  await untilCompleted(1);
  expect(world.app.things('user')).toMatchObject([{ email: 'grace@example.com' }]);
});

it('a row inserted into bubble.sync_queue copies the user again', async () => {
  await Promise.all([start('bridge'), start('worker')]);
  const userId = await signUp('ada@example.com');
  await untilCompleted(1);
  world.app.remove('user', String(world.app.things('user')[0]?._id));
  await query('insert into bubble.sync_queue (user_id) values ($1)', [userId]);
  await untilCompleted(2);
  await expectCopied();
});

const FAULTS = [
  ['answers 503', { kind: 'status', status: 503 }],
  ['answers 429', { kind: 'status', status: 429, retryAfter: 1 }],
  ['answers too late', { kind: 'delay', delayMs: 1_500 }],
  ['breaks the connection before', { kind: 'drop-before' }],
  ['breaks the connection after', { kind: 'drop-after' }],
  ['answers a page', { kind: 'html' }],
  ['answers by halves', { kind: 'partial' }],
] as const;

it.each(FAULTS)('a look-up that %s is repeated, and the user is created once', async (_what, fault) => {
  world.app.fault({ ...fault, on: 'search' });
  await Promise.all([start('bridge'), start('worker')]);
  await signUp('ada@example.com');
  await untilCompleted(1);
  await expectCopied();
});

it.each(FAULTS)('an update that %s is repeated, and Bubble has the latest state', async (_what, fault) => {
  await Promise.all([start('bridge'), start('worker')]);
  const userId = await signUp('ada@example.com');
  await untilCompleted(1);
  world.app.fault({ ...fault, on: 'update' });
  await rename(userId, 'Augusta');
  await untilCompleted(2);
  await expectCopied();
});

// A create that did not arrive is made again only when no request of it can be under way any more: about half a minute.
it.each(FAULTS)(
  'a create that %s leaves one user in Bubble',
  async (_what, fault) => {
    world.app.fault({ ...fault, on: 'create' });
    await Promise.all([start('bridge'), start('worker')]);
    await signUp('ada@example.com');
    await untilCompleted(1, 60_000);
    await expectCopied();
  },
  75_000,
);

it('what Bubble refuses for good fails at once, says why, and is done when a person sets it to pending', async () => {
  world.app.fault({ kind: 'status', status: 401 });
  await Promise.all([start('bridge'), start('worker')]);
  await signUp('ada@example.com');
  await waitFor(
    async () => {
      expect(
        await query('select status, retry_count > max_retries as final, error_message from bubble.sync_queue'),
      ).toEqual([
        { status: 'failed', final: true, error_message: expect.stringContaining('BUBBLE_API_TOKEN') as string },
      ]);
    },
    { timeoutMs: 15_000 },
  );
  await query(`update bubble.sync_queue set status = 'pending', retry_count = 0 where status = 'failed'`);
  await untilCompleted(1);
  await expectCopied();
});

it('a worker killed in the middle of a create leaves one user: the next one looks it up', async () => {
  const rescue = { LEASE: '2s', STALLED_INTERVAL: '1s', BUBBLE_TIMEOUT_MS: '10000' };
  world.app.fault({ kind: 'delay', delayMs: 8_000, on: 'create' });
  const [, worker] = await Promise.all([start('bridge'), start('worker', rescue)]);
  await signUp('ada@example.com');
  await waitFor(() => expect(world.app.count('user')).toBe(1), { timeoutMs: 10_000, intervalMs: 5 });
  await worker.kill('SIGKILL');
  await start('worker', rescue);
  await untilCompleted(1, 40_000);
  await expectCopied();
  expect(await query('select interruptions from outbox.jobs')).toEqual([{ interruptions: 1 }]);
}, 60_000);

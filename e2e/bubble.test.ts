import { startBubbleSimulator, type BubbleSimulator } from '@outbox/simulators';
import {
  atFullSize,
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
  // Faults that follow each other quickly open the breaker; here it lets a probe through soon.
  await db.pool.query("update outbox.providers set probe_after = '500 ms', longest_probe_wait = '1 s'");
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

const FAULTS = {
  'answers-503': { kind: 'status', status: 503 },
  'answers-429': { kind: 'status', status: 429, retryAfter: 1 },
  'answers-too-late': { kind: 'delay', delayMs: 1_500 },
  'breaks-before': { kind: 'drop-before' },
  'breaks-after': { kind: 'drop-after' },
  'answers-a-page': { kind: 'html' },
  'answers-half': { kind: 'partial' },
} as const;

/** Runs `work`, whose next call of that kind meets the fault, and waits until it has. */
async function meet(
  fault: (typeof FAULTS)[keyof typeof FAULTS],
  on: 'search' | 'create' | 'update',
  work: () => unknown,
) {
  const met = () => world.app.requests().filter((request) => request.fault !== null).length;
  const before = met();
  world.app.fault({ ...fault, on });
  await work();
  await waitFor(() => expect(met()).toBe(before + 1), { timeoutMs: 15_000 });
}

// A create that did not arrive is made again only when no request of it can be under way any more: about half a minute.
it.each(['search', 'create'] as const)(
  'whatever goes wrong with a %s (503, 429, too late, broken before and after, a page, half an answer), each user is created once',
  async (on) => {
    await Promise.all([start('bridge'), start('worker')]);
    for (const [name, fault] of Object.entries(FAULTS)) await meet(fault, on, () => signUp(`${name}@example.com`));
    await untilCompleted(Object.keys(FAULTS).length, 60_000);
    await expectCopied();
  },
  120_000,
);

it('whatever goes wrong with an update (the same), Bubble has the latest state of each user', async () => {
  await Promise.all([start('bridge'), start('worker')]);
  const faults = Object.entries(FAULTS);
  const userIds = await Promise.all(faults.map(([name]) => signUp(`${name}@example.com`)));
  await untilCompleted(faults.length);
  for (const [position, [name, fault]] of faults.entries()) {
    await meet(fault, 'update', () => rename(userIds[position] ?? '', name));
  }
  await untilCompleted(2 * faults.length, 30_000);
  await expectCopied();
}, 90_000);

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

async function ended(): Promise<number> {
  const [row] = await query<{ count: number }>('select count(*)::int from outbox.jobs where finished_at is not null');
  return row?.count ?? 0;
}

const USERS = atFullSize() ? 1_000 : 200;
const CHANGES = 5;

it(`${USERS} users changed five times each while workers are killed: Bubble has each once, in its final state`, async () => {
  const rescue = { LEASE: '2s', STALLED_INTERVAL: '1s' };
  await start('bridge');
  let workers = await Promise.all([start('worker', rescue), start('worker', rescue)]);
  await query(`insert into public.users (email) select n || '@example.com' from generate_series(1, $1::int) n`, [
    USERS,
  ]);

  for (let change = 1; change <= CHANGES; change += 1) {
    const before = await ended();
    await waitFor(async () => expect(await ended()).toBeGreaterThan(before + USERS / 20), { timeoutMs: 30_000 });
    await query(`update public.users set first_name = 'Change ' || $1 || ' of ' || email`, [change]);
    const [oldest, ...rest] = workers;
    await oldest?.kill('SIGKILL');
    workers = [...rest, await start('worker', rescue)];
  }

  await waitFor(
    async () => {
      const open = await query('select state, count(*)::int from outbox.jobs where finished_at is null group by state');
      expect(open).toEqual([]);
    },
    { timeoutMs: 150_000, intervalMs: 250 },
  );
  expect(await query('select state from outbox.jobs group by state')).toEqual([{ state: 'completed' }]);
  expect(world.app.count('user')).toBe(USERS);
  await expectCopied();
  const [killed] = await query<{ runs: number }>(
    "select count(*)::int as runs from outbox.attempts where outcome = 'interrupted'",
  );
  expect(killed?.runs).toBeGreaterThan(0);
}, 300_000);

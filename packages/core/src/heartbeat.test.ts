import { captureLogs, createTestDatabase, waitFor, type TestDatabase } from '@outbox/testing';
import { createProcessId, Heartbeat, type ServiceKind } from './heartbeat.ts';
import { createPool, type Pool } from './postgres.ts';

let database: TestDatabase;
let pools: Pool[] = [];
let beating: Heartbeat[] = [];

beforeEach(async () => {
  database = await createTestDatabase();
});

afterEach(async () => {
  await Promise.all(beating.map((heartbeat) => heartbeat.stop()));
  beating = [];
  await Promise.all(pools.map((pool) => pool.end()));
  pools = [];
  await database.drop();
});

/** What a service of this kind may do, and no more. */
function poolOf(service: ServiceKind): Pool {
  const options = { url: database.url, role: `outbox_${service}`, applicationName: 'heartbeat', max: 1 };
  const pool = createPool({ ...options, onError: () => undefined });
  pools.push(pool);
  return pool;
}

async function start(service: ServiceKind, everyMs?: number) {
  const id = createProcessId();
  const { log, lines } = captureLogs();
  const options = { db: poolOf(service), service, id, log };
  const heartbeat = new Heartbeat({ ...options, ...(everyMs === undefined ? {} : { everyMs }) });
  beating.push(heartbeat);
  await heartbeat.start();
  return { heartbeat, id, lines };
}

async function services(): Promise<Record<string, unknown>[]> {
  const asked = `select id, service, version, seen_at > now() - interval '1 minute' as live from outbox.services order by id`;
  return (await database.pool.query<Record<string, unknown>>(asked)).rows;
}

it.each(['api', 'bridge', 'worker'] as const)('the %s says that it lives, and takes its row along', async (service) => {
  const { heartbeat, id } = await start(service);
  expect(await services()).toEqual([{ id, service, version: expect.stringMatching(/^\d+\./) as string, live: true }]);
  await heartbeat.stop();
  expect(await services()).toEqual([]);
});

it('goes on saying so', async () => {
  const { id } = await start('worker', 5);
  await database.pool.query(`update outbox.services set seen_at = now() - interval '1 hour'`);
  await waitFor(async () => expect(await services()).toMatchObject([{ id, live: true }]));
});

it('a process that died stays, silent, for a day, and is then forgotten by the others', async () => {
  await database.pool.query(`insert into outbox.services (id, service, version, seen_at) values
    ('a: died today', 'bridge', '1', now() - interval '23 hours'),
    ('b: died before', 'bridge', '1', now() - interval '25 hours')`);
  const { heartbeat } = await start('worker');
  await heartbeat.stop();
  expect(await services()).toEqual([{ id: 'a: died today', service: 'bridge', version: '1', live: false }]);
});

it('a sign of life that cannot be given stops nothing, is logged, and is given once it can be', async () => {
  await database.pool.query('revoke insert on outbox.services from outbox_worker');
  const { id, lines } = await start('worker', 5);
  expect(lines).toMatchObject([{ level: 'warn', msg: 'no sign of life given' }]);
  expect(await services()).toEqual([]);
  await database.pool.query('grant insert on outbox.services to outbox_worker');
  await waitFor(async () => expect(await services()).toMatchObject([{ id, live: true }]));
  expect(lines).toHaveLength(1);
});

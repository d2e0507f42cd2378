import { randomUUID } from 'node:crypto';
import { createPool, defineJob, HOUR, type JobDefinition, type Pool } from '@outbox/core';
import { sendReminder } from '@outbox/jobs';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { z } from 'zod';
import { createApiPool, NEXT_SERVICE_KEY, SERVICE_KEY, startTestApp, testSettings, type TestApp } from '../test-app.ts';

interface Answer {
  status: number;
  headers: Headers;
  body: unknown;
}

let database: TestDatabase;
let pool: Pool;
let app: TestApp;
let logs: ReturnType<typeof captureLogs>;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  logs = captureLogs();
  app = await startTestApp({ db: pool, log: logs.log });
});

afterAll(async () => {
  await app.stop();
  await pool.end();
  await database.drop();
});

interface Call {
  method?: string;
  path?: string;
  headers?: Record<string, string>;
  /** A string is sent as it is. */
  body?: unknown;
  to?: TestApp;
}

async function call({ method = 'GET', path = '/api/jobs', headers = {}, body, to = app }: Call): Promise<Answer> {
  const response = await fetch(to.url + path, {
    method,
    headers: { authorization: `Bearer ${SERVICE_KEY}`, 'content-type': 'application/json', ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

function post(body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  return call({ method: 'POST', body, headers });
}

function reminder(fields: Record<string, unknown> = {}): Record<string, unknown> {
  return { name: 'reminder_24h', payload: { autoSyncId: randomUUID() }, ...fields };
}

const accepted = z.object({
  job: z.object({ id: z.string(), outboxId: z.string(), key: z.string() }).loose(),
  duplicate: z.boolean(),
});

function jobOf(answer: Answer): z.output<typeof accepted>['job'] {
  return accepted.parse(answer.body).job;
}

async function query(sql: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(sql, values)).rows;
}

async function countJobs(): Promise<unknown> {
  const [row] = await query('select count(*)::int as jobs, max(id) as newest from outbox.jobs');
  return row;
}

function expectProblem(answer: Answer, status: number, type: string): void {
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(answer.status).toBe(status);
  expect(answer.body).toMatchObject({
    type: `urn:outbox-bridge:problem:${type}`,
    status,
    title: expect.stringMatching(/./) as string,
    detail: expect.stringMatching(/./) as string,
    instance: `urn:uuid:${answer.headers.get('x-request-id')}`,
  });
}

describe('POST /api/jobs', () => {
  it('writes the row of the job and answers 201 with it and where it is', async () => {
    const autoSyncId = randomUUID();
    const answer = await post({ name: 'reminder_24h', payload: { autoSyncId } });
    expect(answer.status).toBe(201);
    const job = jobOf(answer);
    expect(answer.body).toMatchObject({
      duplicate: false,
      job: { name: 'reminder_24h', queue: 'reminders', key: autoSyncId, state: 'pending', payload: { autoSyncId } },
    });
    expect(answer.headers.get('location')).toBe(`/api/jobs/${job.id}`);

    const rows = await query(
      `select id, outbox.job_uuid(id) as uuid, key, payload, holds_key,
         extract(epoch from scheduled_at - created_at)::int as delay_s
       from outbox.jobs where key = $1`,
      [autoSyncId],
    );
    expect(rows).toEqual([
      {
        id: job.outboxId,
        uuid: job.id,
        key: autoSyncId,
        payload: { autoSyncId },
        holds_key: true,
        delay_s: sendReminder.timings.production.delayMs / 1000,
      },
    ]);
  });

  it('stores what the caller says about time, priority, attempts, owner and trace', async () => {
    const ownerId = randomUUID();
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const answer = await post(
      reminder({ scheduledAt: '2030-01-31T09:00:00+02:00', priority: -20, maxAttempts: 7, ownerId }),
      { traceparent },
    );
    expect(answer.status).toBe(201);
    expect(jobOf(answer)).toMatchObject({
      scheduledAt: '2030-01-31T07:00:00.000Z',
      dueAt: '2030-01-31T07:00:00.000Z',
      priority: -20,
      maxAttempts: 7,
      ownerId,
    });
    const rows = await query('select traceparent from outbox.jobs where id = $1', [jobOf(answer).outboxId]);
    expect(rows).toEqual([{ traceparent }]);
  });

  it('leaves out a traceparent that is none', async () => {
    const answer = await post(reminder(), { traceparent: 'from-somewhere' });
    const rows = await query('select traceparent from outbox.jobs where id = $1', [jobOf(answer).outboxId]);
    expect(rows).toEqual([{ traceparent: null }]);
  });

  it('answers 200 with the waiting job when the same is asked for again, and writes nothing', async () => {
    const body = reminder();
    const first = await post(body);
    const before = await countJobs();
    const second = await post(body);
    expect(second.status).toBe(200);
    expect(second.body).toMatchObject({ duplicate: true, job: { id: jobOf(first).id } });
    expect(second.headers.get('location')).toBe(`/api/jobs/${jobOf(first).id}`);
    expect(await countJobs()).toEqual(before);
  });

  it('gives the same job for the same Idempotency-Key, even when that job has ended', async () => {
    const body = reminder();
    const idempotency = { 'idempotency-key': `order 4711 ${randomUUID()}` };
    const first = await post(body, idempotency);
    expect(first.status).toBe(201);
    await query(`update outbox.jobs set state = 'completed', finished_at = now(), holds_key = false where id = $1`, [
      jobOf(first).outboxId,
    ]);
    const again = await post(body, idempotency);
    expect(again.status).toBe(200);
    expect(again.body).toMatchObject({ duplicate: true, job: { id: jobOf(first).id, state: 'completed' } });
    const without = await post(body);
    expect(without.status).toBe(201);
    expect(jobOf(without).id).not.toBe(jobOf(first).id);
  });

  const payload = { autoSyncId: randomUUID() };
  const far = { scheduledAt: '2030-01-31T09:00:00Z' };
  it.each<[string, unknown, string[], RegExp]>([
    ['an unknown name', { name: 'reminder', payload }, ['name'], /reminder_24h, pause_check_48h/],
    ['no name', { payload }, ['name'], /must be the name of a job/],
    ['a name inherited by every object', { name: 'constructor', payload }, ['name'], /reminder_24h/],
    ['no payload', { name: 'reminder_24h' }, ['payload'], /must be an object/],
    ['a payload that is a list', reminder({ payload: [] }), ['payload'], /must be an object/],
    ['a payload without its field', reminder({ payload: {} }), ['payload.autoSyncId'], /autoSyncId/],
    ['a payload that is no uuid', reminder({ payload: { autoSyncId: '1' } }), ['payload.autoSyncId'], /UUID/],
    ['an unknown payload field', reminder({ payload: { ...payload, to: 1 } }), ['payload.to'], /not a known field/],
    ['an unknown field', reminder({ delay: 5, ...far }), ['delay'], /delay is not a known field/],
    ['two unknown fields', reminder({ delay: 5, color: 'red' }), ['delay', 'color'], /color/],
    ['a date without an offset', reminder({ scheduledAt: '2030-01-31T09:00:00' }), ['scheduledAt'], /with its offset/],
    ['a day that does not exist', reminder({ scheduledAt: '2030-02-30T09:00:00Z' }), ['scheduledAt'], /must be a date/],
    ['a date as a number', reminder({ scheduledAt: 1_893_456_000_000 }), ['scheduledAt'], /must be a date/],
    ['a priority too high', reminder({ priority: 1_000_001 }), ['priority'], /from -1000000 to 1000000/],
    ['a priority too low', reminder({ priority: -1_000_001 }), ['priority'], /from -1000000 to 1000000/],
    ['a priority between two', reminder({ priority: 0.5 }), ['priority'], /whole number/],
    ['no attempts', reminder({ maxAttempts: 0 }), ['maxAttempts'], /from 1 to 100/],
    ['too many attempts', reminder({ maxAttempts: 101 }), ['maxAttempts'], /from 1 to 100/],
    ['an owner that is no uuid', reminder({ ownerId: 'me' }), ['ownerId'], /uuid/],
    ['several at once', reminder({ priority: 'x', maxAttempts: 'y' }), ['priority', 'maxAttempts'], /; maxAttempts/],
    ['a list', [], ['body'], /JSON object/],
    ['a body of another type', 'name=reminder_24h', ['body'], /application\/json/],
  ])('refuses %s with 400, names the field and writes nothing', async (_title, body, fields, detail) => {
    const before = await countJobs();
    const headers: Record<string, string> = typeof body === 'string' ? { 'content-type': 'text/plain' } : {};
    const answer = await post(body, headers);
    expectProblem(answer, 400, 'invalid-request');
    const { errors } = z.object({ errors: z.array(z.object({ field: z.string() })) }).parse(answer.body);
    expect(errors.map(({ field }) => field)).toEqual(fields);
    expect(answer.body).toMatchObject({ detail: expect.stringMatching(detail) as string });
    expect(await countJobs()).toEqual(before);
  });

  it.each<[string, string, Record<string, string>, number, string]>([
    ['malformed JSON', '{"name": "reminder_24h",', {}, 400, 'malformed-json'],
    ['more than 100 kB', JSON.stringify(reminder({ x: 'x'.repeat(102_400) })), {}, 413, 'too-large'],
    ['another charset', '{}', { 'content-type': 'application/json; charset=koi8-r' }, 415, 'unsupported-media-type'],
    ['an empty Idempotency-Key', JSON.stringify(reminder()), { 'idempotency-key': '' }, 400, 'invalid-request'],
    ['a long one', JSON.stringify(reminder()), { 'idempotency-key': 'k'.repeat(201) }, 400, 'invalid-request'],
    ['one with an umlaut', JSON.stringify(reminder()), { 'idempotency-key': 'schlüssel' }, 400, 'invalid-request'],
  ])('refuses %s and writes nothing', async (_title, body, headers, status, type) => {
    const before = await countJobs();
    const answer = await post(body, headers);
    expectProblem(answer, status, type);
    expect(JSON.stringify(answer.body)).not.toContain('24h');
    expect(await countJobs()).toEqual(before);
  });

  it('accepts a body of just under 100 kB, as far as its size goes', async () => {
    expectProblem(await post(reminder({ x: 'x'.repeat(100_000) })), 400, 'invalid-request');
  });

  it('answers 503 with Retry-After while a transaction holds the row it duplicates, and works afterwards', async () => {
    const body = reminder();
    const { outboxId } = jobOf(await post(body));
    const business = await database.pool.connect();
    await business.query('begin');
    await business.query('select from outbox.jobs where id = $1 for update', [outboxId]);
    const held = await post(body);
    await business.query('rollback');
    business.release();
    expectProblem(held, 503, 'busy');
    expect(held.headers.get('retry-after')).toBe('1');
    expect((await post(body)).status).toBe(200);
  });

  function serveJob(definition: JobDefinition): Promise<TestApp> {
    return startTestApp({ db: pool, log: logs.log, catalog: [definition], findDefinition: () => definition });
  }

  it('refuses a text that Postgres cannot store, as the fault of the caller', async () => {
    const note = defineJob({
      ...sendReminder,
      payload: z.object({ note: z.string() }),
      key: () => undefined,
      serialKey: undefined,
    });
    const other = await serveJob(note);
    const body = { name: 'reminder_24h', payload: { note: 'NUL: \u0000' } };
    const answer = await call({ method: 'POST', body, to: other });
    await other.stop();
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body).toMatchObject({ errors: [{ field: 'payload' }] });
  });

  it('answers 503 for a job that the database has not been told of', async () => {
    const other = await serveJob(defineJob({ ...sendReminder, name: 'brand_new' }));
    const answer = await call({ method: 'POST', body: reminder({ name: 'brand_new' }), to: other });
    await other.stop();
    expectProblem(answer, 503, 'unavailable');
    expect(answer.body).toMatchObject({ detail: expect.stringContaining('npm run migrate') as string });
  });
});

describe('GET /api/jobs/:id', () => {
  it('answers the job with its attempts, the newest first, and its effects, without their requests', async () => {
    const job = jobOf(await post(reminder()));
    await query(
      `insert into outbox.attempts (job_id, run, attempt, worker, started_at, finished_at, outcome, reason, error)
       values ($1, 11, 1, 'w1', '2030-01-01Z', '2030-01-02Z', 'retried', null, 'no answer from +15005550001'),
              ($1, 12, 2, 'w2', '2030-01-03Z', '2030-01-04Z', 'completed', null, null)`,
      [job.outboxId],
    );
    await query(
      `insert into outbox.effects
         (key, job_id, run, provider, state, request, reference, reason, started_at, deadline_at, settled_at)
       values ($2, $1, 11, 'sms', 'rejected', '{"text": "Please answer"}', null, '+1 500 555 0001 opted out',
         '2030-01-01Z', '2030-01-01Z', '2030-01-02Z')`,
      [job.outboxId, `reminder:${job.key}:someone:1`],
    );
    await query(
      `update outbox.jobs set last_error = 'The number +15005550001 is not valid', result = '{"sentTo": "+15005550009"}'
       where id = $1`,
      [job.outboxId],
    );

    const answer = await call({ path: `/api/jobs/${job.id}` });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({
      job: {
        ...job,
        lastError: 'The number [phone …01] is not valid',
        result: { sentTo: '[phone …09]' },
      },
      attempts: [
        {
          attempt: 2,
          outcome: 'completed',
          reason: null,
          error: null,
          worker: 'w2',
          startedAt: '2030-01-03T00:00:00.000Z',
          finishedAt: '2030-01-04T00:00:00.000Z',
        },
        {
          attempt: 1,
          outcome: 'retried',
          reason: null,
          error: 'no answer from [phone …01]',
          worker: 'w1',
          startedAt: '2030-01-01T00:00:00.000Z',
          finishedAt: '2030-01-02T00:00:00.000Z',
        },
      ],
      effects: [
        {
          key: `reminder:${job.key}:someone:1`,
          provider: 'sms',
          state: 'rejected',
          reference: null,
          reason: '[phone …01] opted out',
          startedAt: '2030-01-01T00:00:00.000Z',
          settledAt: '2030-01-02T00:00:00.000Z',
        },
      ],
    });
    expect(Object.keys(job).sort()).toEqual(
      [
        ...['id', 'outboxId', 'name', 'queue', 'key', 'state', 'attempt', 'maxAttempts', 'interruptions', 'generation'],
        ...['priority', 'payload', 'ownerId', 'scheduledAt', 'dueAt', 'createdAt', 'publishedAt', 'startedAt'],
        ...['cancelRequestedAt', 'finishedAt', 'lastError', 'reason', 'result'],
      ].sort(),
    );
  });

  it('finds an imported row by the id it had before, and shows that id', async () => {
    const job = jobOf(await post(reminder()));
    const legacyId = randomUUID();
    await query('insert into outbox.legacy_ids (legacy_id, job_id) values ($1, $2)', [legacyId, job.outboxId]);
    const answer = await call({ path: `/api/jobs/${legacyId}` });
    expect(answer.body).toMatchObject({ job: { id: legacyId, outboxId: job.outboxId } });
  });

  it('takes a uuid in capital letters', async () => {
    const job = jobOf(await post(reminder()));
    const answer = await call({ path: `/api/jobs/${job.id.toUpperCase()}` });
    expect(answer.body).toMatchObject({ job: { id: job.id } });
  });

  it.each([
    ['of a job that does not exist', '6f757462-0000-8000-8000-00ffffffffff'],
    ['that is not one of ours', randomUUID()],
  ])('answers 404 for a uuid %s', async (_title, id) => {
    expectProblem(await call({ path: `/api/jobs/${id}` }), 404, 'not-found');
  });

  it.each(['1', 'reminder_24h', "6f757462'--", `${randomUUID()}0`, '%E0%A4%A'])(
    'answers 400 for the id %s, which is no uuid',
    async (id) => {
      expectProblem(await call({ path: `/api/jobs/${id}` }), 400, 'invalid-request');
    },
  );
});

describe('who may call', () => {
  it.each<[string, Record<string, string>]>([
    ['no key', { authorization: '' }],
    ['a wrong key', { authorization: `Bearer ${SERVICE_KEY}x` }],
    ['both keys as one', { authorization: `Bearer ${SERVICE_KEY},${NEXT_SERVICE_KEY}` }],
    ['another scheme', { authorization: `Basic ${SERVICE_KEY}` }],
    ['a wrong apikey', { authorization: '', apikey: 'sb_publishable_key' }],
  ])('refuses %s with 401, before it looks at the body, and writes nothing', async (_title, headers) => {
    const before = await countJobs();
    const answers = [
      await post(reminder(), headers),
      await post('{', headers),
      await call({ headers, path: '/api/x' }),
    ];
    for (const answer of answers) {
      expectProblem(answer, 401, 'unauthorized');
      expect(answer.headers.get('www-authenticate')).toBe('Bearer realm="outbox"');
    }
    expect(await countJobs()).toEqual(before);
  });

  it.each<[string, Record<string, string>]>([
    ['the first key', { authorization: `Bearer ${SERVICE_KEY}` }],
    ['the second key', { authorization: `bearer ${NEXT_SERVICE_KEY}` }],
    ['the header apikey', { authorization: '', apikey: SERVICE_KEY }],
  ])('accepts %s', async (_title, headers) => {
    expect((await post(reminder(), headers)).status).toBe(201);
  });

  it('answers at most so many requests a minute as set, and goes on answering /healthz', async () => {
    const settings = { ...testSettings, RATE_LIMIT_PER_MINUTE: 2 };
    const limited = await startTestApp({ db: pool, log: logs.log, settings });
    const statuses = [];
    for (let count = 0; count < 3; count += 1) statuses.push(await call({ path: `/api/jobs/${count}`, to: limited }));
    const health = await call({ path: '/healthz', to: limited });
    await limited.stop();
    expect(statuses.map(({ status }) => status)).toEqual([400, 400, 429]);
    expectProblem(statuses[2] as Answer, 429, 'too-many-requests');
    expect(health.status).toBe(200);
  });
});

describe('the rest of the API', () => {
  it.each([
    ['GET', '/'],
    ['GET', '/api/nothing'],
    ['DELETE', '/api/jobs'],
    ['POST', '/healthz'],
  ])('answers %s %s with 404', async (method, path) => {
    expectProblem(await call({ method, path }), 404, 'not-found');
  });

  it('sends a policy that lets a page load nothing, is kept nowhere, and does not name its software', async () => {
    const { headers } = await call({ path: '/api/jobs/1' });
    expect(headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('cache-control')).toBe('no-store');
    expect(headers.get('x-powered-by')).toBeNull();
    expect(headers.get('strict-transport-security')).toBeNull();
  });

  it('is alive, and answers 503 with Retry-After, while Postgres is away', async () => {
    const away = createPool({
      url: 'postgres://outbox@127.0.0.1:1/outbox',
      applicationName: 'away',
      max: 1,
      onError: () => undefined,
    });
    const { log, lines } = captureLogs();
    const alone = await startTestApp({ db: away, log });
    const [alive, ready, posted] = [
      await call({ path: '/healthz', to: alone }),
      await call({ path: '/readyz', to: alone }),
      await call({ method: 'POST', body: reminder(), to: alone }),
    ];
    await alone.stop();
    await away.end();
    expect(alive.status).toBe(200);
    expect(ready).toMatchObject({ status: 503, body: { failed: { postgres: 'ECONNREFUSED' } } });
    expectProblem(posted, 503, 'unavailable');
    expect(posted.headers.get('retry-after')).toBe('5');
    expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', msg: 'request put off' }));
  });

  it('is ready when Postgres answers', async () => {
    expect(await call({ path: '/readyz' })).toMatchObject({ status: 200, body: { status: 'ready' } });
  });

  it('answers 500 without a word about the inside, which it logs under the id it answers', async () => {
    const broken = await createTestDatabase();
    const brokenPool = createApiPool(broken.url);
    await broken.pool.query('alter table outbox.effects rename column provider to supplier');
    const { log, lines } = captureLogs();
    const other = await startTestApp({ db: brokenPool, log });
    const posted = await call({ method: 'POST', body: reminder(), to: other });
    const answer = await call({ path: `/api/jobs/${jobOf(posted).id}`, to: other });
    await other.stop();
    await brokenPool.end();
    await broken.drop();
    expectProblem(answer, 500, 'internal');
    expect(JSON.stringify(answer.body)).not.toMatch(/provider|column/);
    const [line] = lines.filter(({ msg }) => msg === 'request failed');
    expect(line).toMatchObject({ level: 'error', requestId: answer.headers.get('x-request-id') });
    expect(JSON.stringify(line?.err)).toMatch(/column e.provider does not exist/);
  });

  it('logs one line per request, with its route, and neither key, query, body nor phone number', async () => {
    const { log, lines } = captureLogs();
    const other = await startTestApp({ db: pool, log });
    const body = reminder();
    const { id, key } = jobOf(await call({ method: 'POST', body, path: '/api/jobs?trace=hidden-word', to: other }));
    await call({ path: `/api/jobs/${id}`, to: other });
    await call({ path: '/api/jobs/x?apikey=hidden-word', to: other });
    await call({ path: '/api/else?apikey=hidden-word', headers: { authorization: 'Bearer hidden-word' }, to: other });
    await call({ path: '/healthz', to: other });
    await other.stop();
    const requests = lines.filter(({ msg }) => msg === 'request');
    expect(requests.map(({ level, method, route, status }) => [level, method, route, status])).toEqual([
      ['info', 'POST', '/api/jobs', 201],
      ['info', 'GET', '/api/jobs/:id', 200],
      ['info', 'GET', '/api/jobs/:id', 400],
      ['info', 'GET', '/api/else', 401],
      ['debug', 'GET', '/healthz', 200],
    ]);
    for (const { durationMs } of requests) expect(durationMs).toBeLessThan(1 * HOUR);
    const text = JSON.stringify(lines);
    for (const secret of [SERVICE_KEY, 'hidden-word', key]) expect(text).not.toContain(secret);
  });
});

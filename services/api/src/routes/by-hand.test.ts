import { randomUUID } from 'node:crypto';
import { enqueue, type Pool } from '@outbox/core';
import { queueNames } from '@outbox/jobs';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { createApiPool, SERVICE_KEY, startTestApp, type TestApp } from '../test-app.ts';

let database: TestDatabase;
let pool: Pool;
let app: TestApp;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
  app = await startTestApp({ db: pool, log: captureLogs().log });
});

afterAll(async () => {
  await app.stop();
  await pool.end();
  await database.drop();
});

interface Answer {
  status: number;
  body: Record<string, unknown>;
}

async function call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
  const response = await fetch(app.url + path, {
    method,
    headers: { authorization: `Bearer ${SERVICE_KEY}`, 'content-type': 'application/json', ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function query(sql: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  return (await database.pool.query<Record<string, unknown>>(sql, values)).rows;
}

/** A reminder, in the state that is asked for. */
async function addJob(
  state = 'pending',
  key: string = randomUUID(),
): Promise<{ id: string; uuid: string; key: string }> {
  const { id } = await enqueue(database.pool, 'reminder_24h', { key, payload: { autoSyncId: key } });
  if (state !== 'pending') {
    await query(
      /* sql */ `
      update outbox.jobs
      set state = $2, finished_at = case when $2 in ('active', 'published') then null else now() end, holds_key = false,
        locked_until = case when $2 = 'active' then now() + interval '1 minute' end, attempt = 3
      where id = $1`,
      [id, state],
    );
  }
  const [row] = await query('select outbox.job_uuid($1) as uuid', [id]);
  return { id, uuid: String(row?.uuid), key };
}

async function addEffect(jobId: string, state = 'unknown', note: string | null = null): Promise<string> {
  const [row] = await query(
    /* sql */ `
    insert into outbox.effects (key, job_id, run, provider, state, deadline_at, settled_at, request, note, reason)
    values ($1, $2, 1, 'sms', $3, now(), case when $3 <> 'started' then now() end, '{"body": "secret words"}', $4, $4)
    returning id`,
    [`test:${randomUUID()}`, jobId, state, note],
  );
  return String(row?.id);
}

/** Everything that a person's request may change, as one text. */
async function everything(): Promise<string> {
  const tables = ['jobs', 'ready', 'removals', 'effects', 'queues', 'audit'];
  const all = await Promise.all(tables.map((table) => query(`select * from outbox.${table} order by 1, 2`)));
  return JSON.stringify(all);
}

function auditOf(jobId: string) {
  return query('select actor, role, action, detail from outbox.audit where job_id = $1 order by id', [jobId]);
}

function expectProblem(answer: Answer, status: number, kind: string): void {
  expect(answer).toMatchObject({ status, body: { type: `urn:outbox-bridge:problem:${kind}`, status } });
}

const SERVICE = { actor: 'service', role: 'service' };
const SOON = '2030-01-31T09:00:00.000Z';
const NOBODY = '6f757462-0000-8000-8000-00ffffffffff';

describe('what is done to one job by hand', () => {
  it('cancels it, with a reason, and writes down who did', async () => {
    const job = await addJob();
    const answer = await call('POST', `/api/jobs/${job.uuid}/cancel`, { reason: 'asked by phone' });
    expect(answer).toMatchObject({
      status: 200,
      body: { job: { id: job.uuid, state: 'cancelled', reason: 'asked by phone' } },
    });
    expect(await auditOf(job.id)).toEqual([{ ...SERVICE, action: 'cancel', detail: { reason: 'asked by phone' } }]);
  });

  it('asks a running job to end', async () => {
    const job = await addJob('active');
    const answer = await call('POST', `/api/jobs/${job.uuid}/cancel`);
    expect(answer).toMatchObject({
      status: 200,
      body: { job: { state: 'active', cancelRequestedAt: expect.any(String) as string, finishedAt: null } },
    });
  });

  it('cancels once: again is answered the same and not written down', async () => {
    const job = await addJob();
    const first = await call('POST', `/api/jobs/${job.uuid}/cancel`, { reason: 'first' });
    expect(await call('POST', `/api/jobs/${job.uuid}/cancel`, { reason: 'second' })).toEqual(first);
    expect(await auditOf(job.id)).toHaveLength(1);
  });

  it('retries a failed job, which has all its attempts again', async () => {
    const job = await addJob('failed');
    const answer = await call('POST', `/api/jobs/${job.uuid}/retry`);
    expect(answer).toMatchObject({ status: 200, body: { job: { state: 'pending', attempt: 0, generation: 2 } } });
    expect(await auditOf(job.id)).toEqual([{ ...SERVICE, action: 'retry', detail: {} }]);
  });

  it('reschedules an open job', async () => {
    const job = await addJob();
    const answer = await call('POST', `/api/jobs/${job.uuid}/reschedule`, { scheduledAt: '2030-01-31T10:00:00+01:00' });
    expect(answer).toMatchObject({ status: 200, body: { job: { scheduledAt: SOON, dueAt: SOON, generation: 2 } } });
    expect(await auditOf(job.id)).toEqual([{ ...SERVICE, action: 'reschedule', detail: { scheduledAt: SOON } }]);
  });

  it('makes an open job due now', async () => {
    const job = await addJob('published');
    const answer = await call('POST', `/api/jobs/${job.uuid}/run-now`);
    expect(answer).toMatchObject({ status: 200, body: { job: { state: 'pending', generation: 2 } } });
    const due = 'select scheduled_at <= clock_timestamp() as due from outbox.jobs where id = $1';
    expect(await query(due, [job.id])).toEqual([{ due: true }]);
    expect(await auditOf(job.id)).toEqual([{ ...SERVICE, action: 'run-now', detail: {} }]);
  });

  it('finds an imported job by the id it had before', async () => {
    const job = await addJob();
    const legacyId = randomUUID();
    await query('insert into outbox.legacy_ids (legacy_id, job_id) values ($1, $2)', [legacyId, job.id]);
    const answer = await call('POST', `/api/jobs/${legacyId}/cancel`);
    expect(answer).toMatchObject({ status: 200, body: { job: { id: legacyId, state: 'cancelled' } } });
  });
});

describe('what its state does not allow', () => {
  it.each([
    ['cancel', 'completed', {}],
    ['cancel', 'failed', {}],
    ['retry', 'pending', {}],
    ['retry', 'completed', {}],
    ['retry', 'active', {}],
    ['reschedule', 'active', { scheduledAt: SOON }],
    ['reschedule', 'cancelled', { scheduledAt: SOON }],
    ['run-now', 'active', {}],
    ['run-now', 'failed', {}],
  ])('%s of a job that is %s is 409, and changes nothing', async (action, state, body) => {
    const job = await addJob(state);
    const before = await everything();
    expectProblem(await call('POST', `/api/jobs/${job.uuid}/${action}`, body), 409, 'conflict');
    expect(await everything()).toBe(before);
  });

  it('a retry whose key is taken is 409, and names the job that has it by the id its caller knows', async () => {
    const failed = await addJob('failed');
    const other = await addJob('pending', failed.key);
    const before = await everything();
    const answer = await call('POST', `/api/jobs/${failed.uuid}/retry`);
    expectProblem(answer, 409, 'conflict');
    expect(answer.body.detail).toContain(other.uuid);
    expect(await everything()).toBe(before);
  });

  it('a job that a transaction in progress holds is 503 busy, and changes nothing', async () => {
    const job = await addJob();
    const client = await database.pool.connect();
    await client.query('begin');
    await client.query('select id from outbox.jobs where id = $1 for no key update', [job.id]);
    const answer = await call('POST', `/api/jobs/${job.uuid}/run-now`);
    await client.query('rollback');
    client.release();
    expectProblem(answer, 503, 'busy');
    expect(await auditOf(job.id)).toEqual([]);
  });

  it('what cannot be written down is not done', async () => {
    const job = await addJob();
    await query('revoke insert on outbox.audit from outbox_api');
    const answer = await call('POST', `/api/jobs/${job.uuid}/cancel`);
    await query('grant insert on outbox.audit to outbox_api');
    expectProblem(answer, 500, 'internal');
    expect(await query('select state from outbox.jobs where id = $1', [job.id])).toEqual([{ state: 'pending' }]);
  });
});

describe('a request that is wrong', () => {
  it.each(['cancel', 'retry', 'reschedule', 'run-now'])('%s of a job that does not exist is 404', async (action) => {
    const body = action === 'reschedule' ? { scheduledAt: SOON } : {};
    for (const id of [NOBODY, randomUUID()]) {
      expectProblem(await call('POST', `/api/jobs/${id}/${action}`, body), 404, 'not-found');
    }
    expectProblem(await call('POST', `/api/jobs/17/${action}`, body), 400, 'invalid-request');
  });

  it.each<[string, unknown, string]>([
    ...[
      { reason: '' },
      { reason: 'x'.repeat(201) },
      { reason: 'a\0b' },
      { reason: '\ud800' },
      { because: 'misspelt' },
      [],
    ].map((body): [string, unknown, string] => ['cancel', body, 'application/json']),
    ['cancel', 'reason=words', 'application/x-www-form-urlencoded'],
    ['cancel', '{"reason": "words"}', 'text/plain'],
    ['retry', { force: true }, 'application/json'],
    ['run-now', { at: SOON }, 'application/json'],
    ...[
      undefined,
      {},
      { scheduledAt: 'tomorrow' },
      { scheduledAt: '2030-01-31T09:00:00' },
      { scheduledAt: null },
      { scheduledAt: SOON, scheduled_at: SOON },
    ].map((body): [string, unknown, string] => ['reschedule', body, 'application/json']),
  ])('%s with the body %j as %s is 400, and changes nothing', async (action, body, type) => {
    const job = await addJob(action === 'retry' ? 'failed' : 'pending');
    const before = await everything();
    const answer = await call('POST', `/api/jobs/${job.uuid}/${action}`, body, { 'content-type': type });
    expectProblem(answer, 400, 'invalid-request');
    expect(await everything()).toBe(before);
  });

  it('without a key is 401 on every path, and changes nothing', async () => {
    const job = await addJob('failed');
    const effect = await addEffect(job.id);
    const before = await everything();
    const paths = [
      ...['cancel', 'retry', 'reschedule', 'run-now'].map((action) => `/api/jobs/${job.uuid}/${action}`),
      ...[`/api/effects/${effect}/resolve`, '/api/queues/reminders/pause', '/api/queues/reminders/resume'],
    ];
    for (const path of paths) {
      expectProblem(await call('POST', path, {}, { authorization: '' }), 401, 'unauthorized');
    }
    for (const path of ['/api/effects', '/api/queues']) {
      expectProblem(await call('GET', path, undefined, { authorization: '' }), 401, 'unauthorized');
    }
    expect(await everything()).toBe(before);
  });
});

describe('effects', () => {
  it('are listed newest first, without their request, with phone numbers masked', async () => {
    const job = await addJob('completed');
    const first = await addEffect(job.id, 'unknown', 'sent to +15555550101?');
    const second = await addEffect(job.id, 'started');
    const { status, body } = await call('GET', '/api/effects?limit=2');
    expect(status).toBe(200);
    expect(body.effects).toMatchObject([
      { id: second, state: 'started' },
      { id: first, jobId: job.uuid, state: 'unknown', note: 'sent to [phone …01]?', reason: 'sent to [phone …01]?' },
    ]);
    expect(JSON.stringify(body)).not.toMatch(/secret words|5555550101/);
  });

  it('are listed by state', async () => {
    const job = await addJob('completed');
    const unknown = await addEffect(job.id);
    await addEffect(job.id, 'started');
    const { body } = await call('GET', '/api/effects?state=unknown&limit=1');
    expect(body.effects).toMatchObject([{ id: unknown }]);
  });

  it.each(['state=lost', 'limit=0', 'limit=501', 'limit=x', 'limit=1&limit=2', 'page=1'])(
    'are not listed with %s: 400',
    async (search) => {
      expectProblem(await call('GET', `/api/effects?${search}`), 400, 'invalid-request');
    },
  );

  it('that are unknown are resolved, by whom and why; the job is enqueued once more, and that is written down', async () => {
    const job = await addJob('completed');
    const effect = await addEffect(job.id);
    const answer = await call('POST', `/api/effects/${effect}/resolve`, {
      outcome: 'confirmed',
      note: 'it is on the phone +15555550102',
    });
    expect(answer).toMatchObject({
      status: 200,
      body: {
        effect: { id: effect, state: 'confirmed', resolvedBy: 'service', note: 'it is on the phone [phone …02]' },
        job: { key: job.key, state: 'pending' },
      },
    });
    const { outboxId } = answer.body.job as { outboxId: string };
    expect(await auditOf(job.id)).toMatchObject([
      { ...SERVICE, action: 'resolve-effect', detail: { effect, outcome: 'confirmed', enqueued: outboxId } },
    ]);
  });

  it('of an open job are resolved, and the job is left to look by itself', async () => {
    const job = await addJob();
    const effect = await addEffect(job.id);
    const answer = await call('POST', `/api/effects/${effect}/resolve`, { outcome: 'rejected', note: 'not sent' });
    expect(answer).toMatchObject({ status: 200, body: { effect: { state: 'rejected' }, job: null } });
  });

  it('that are not unknown are 409, that do not exist 404, with an id that is none 400; nothing changes', async () => {
    const job = await addJob('completed');
    const started = await addEffect(job.id, 'started');
    const before = await everything();
    const body = { outcome: 'confirmed', note: 'seen' };
    expectProblem(await call('POST', `/api/effects/${started}/resolve`, body), 409, 'conflict');
    expectProblem(await call('POST', '/api/effects/999999999/resolve', body), 404, 'not-found');
    expectProblem(await call('POST', '/api/effects/one/resolve', body), 400, 'invalid-request');
    expect(await everything()).toBe(before);
  });

  it.each([
    [{}],
    [undefined],
    [{ outcome: 'confirmed' }],
    [{ outcome: 'unknown', note: 'seen' }],
    [{ outcome: 'confirmed', note: ' ' }],
    [{ outcome: 'confirmed', note: 'a\0b' }],
    [{ outcome: 'confirmed', note: 'seen', by: 'me' }],
  ])('are not resolved with the body %j: 400, and nothing changes', async (body) => {
    const effect = await addEffect((await addJob('completed')).id);
    const before = await everything();
    expectProblem(await call('POST', `/api/effects/${effect}/resolve`, body), 400, 'invalid-request');
    expect(await everything()).toBe(before);
  });
});

describe('queues', () => {
  it('are paused and resumed, once each, and that is written down', async () => {
    const path = '/api/queues/reminders';
    const paused = { name: 'reminders', pausedAt: expect.any(String) as string, pausedBy: 'service', reason: 'quiet' };
    const free = { name: 'reminders', pausedAt: null, pausedBy: null, reason: null };
    expect((await call('POST', `${path}/pause`, { reason: 'quiet' })).body).toEqual({ queue: paused, changed: true });
    expect((await call('POST', `${path}/pause`)).body).toEqual({ queue: paused, changed: false });
    const { body } = await call('GET', '/api/queues');
    const others = queueNames().filter((name) => name !== 'reminders');
    expect(body.queues).toEqual([...others.sort().map((name) => ({ ...free, name })), paused]);
    expect((await call('POST', `${path}/resume`)).body).toEqual({ queue: free, changed: true });
    expect((await call('POST', `${path}/resume`)).body).toEqual({ queue: free, changed: false });
    const written = `select actor, role, action, detail from outbox.audit where action like '%-queue' order by id`;
    expect(await query(written)).toEqual([
      { ...SERVICE, action: 'pause-queue', detail: { queue: 'reminders', reason: 'quiet' } },
      { ...SERVICE, action: 'resume-queue', detail: { queue: 'reminders' } },
    ]);
  });

  it.each<[string, unknown, number]>([
    ['no-such/pause', {}, 404],
    ['no-such/resume', {}, 404],
    ['a%00b/pause', {}, 404],
    ['reminders/pause', { reason: '' }, 400],
    ['reminders/pause', { why: 'x' }, 400],
    ['reminders/resume', { reason: 'x' }, 400],
  ])('answer POST %s with the body %j with %d, and nothing changes', async (path, body, status) => {
    const before = await everything();
    expect((await call('POST', `/api/queues/${path}`, body)).status).toBe(status);
    expect(await everything()).toBe(before);
  });
});

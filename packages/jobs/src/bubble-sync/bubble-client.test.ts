import { PermanentError, ProviderUnavailableError, RateLimitedError, SECOND } from '@outbox/core';
import { startBubbleSimulator, type BubbleSimulator } from '@outbox/simulators';
import { createBubbleClient, type BubbleClientOptions } from './bubble-client.ts';

const USER = '00000000-0000-4000-8000-000000000001';
const TOKEN = 'very-secret-token';
const FIELDS = { email: 'ada@example.com', first_name: 'Ada' };

let app: BubbleSimulator;
beforeEach(async () => void (app = await startBubbleSimulator()));
afterEach(() => app.close());

function client(overrides: Partial<BubbleClientOptions> = {}) {
  return createBubbleClient({
    ...{ appUrl: app.url, apiToken: TOKEN, dataType: 'user', idField: 'external_id', emailField: 'email' },
    ...{ timeoutMs: 2 * SECOND },
    ...overrides,
  });
}

const { signal } = new AbortController();
const create = (bubble = client()) => bubble.create(USER, FIELDS, signal);
const find = (bubble = client()) => bubble.find({ id: USER, email: FIELDS.email }, signal);

/** What a call throws. */
async function failureOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    (value) => new Error(`It resolved with ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );
}

describe('find', () => {
  test('knows a user by our id, and of several the oldest', async () => {
    const oldest = app.put('user', { external_id: USER });
    app.put('user', { external_id: USER });
    app.put('user', { external_id: 'other' });
    expect(await find()).toBe(oldest);
  });

  test('asks no email when it has none', async () => {
    expect(await client().find({ id: USER, email: null }, signal)).toBeUndefined();
    expect(app.requests()).toHaveLength(1);
  });

  test.each([
    ['no id of ours', {}],
    ['an empty one', { external_id: '' }],
  ])('knows one by email that has %s', async (_what, fields) => {
    const namesake = app.put('user', { email: FIELDS.email, ...fields });
    expect(await find()).toBe(namesake);
  });

  test('refuses one by email that is another user of ours, without quoting the email', async () => {
    app.put('user', { email: FIELDS.email, external_id: 'other' });
    const error = await failureOf(find());
    expect(error).toMatchObject({ code: 'bubble_email_taken' });
    expect(String(error)).not.toContain(FIELDS.email);
  });

  test('takes an address of an app with and without a slash at its end', async () => {
    expect(await find(client({ appUrl: `${app.url}/` }))).toBeUndefined();
  });
});

test('an update changes the given fields, and leaves the others', async () => {
  const id = app.put('user', { points: 7 });
  expect(await client().update(id, USER, FIELDS, signal)).toBe(true);
  expect(app.things('user')).toMatchObject([{ points: 7, external_id: USER, ...FIELDS }]);
});

test('an update of a thing that Bubble has not says so', async () => {
  expect(await client().update('1671702337369x488321592367327900', USER, FIELDS, signal)).toBe(false);
});

const body = (status: string, message: string) => ({ statusCode: 0, body: { status, message } });

describe('what Bubble refuses for good', () => {
  test.each([
    ['an unknown field is named', 400, body('ERROR', 'Unrecognized field: first_name'), 'bubble_400', '"first_name"'],
    [
      'values that do not fit',
      400,
      body('ERROR', 'Invalid data for field email: ada@example.com'),
      'bubble_400',
      'fit',
    ],
    ['a token it does not know', 401, { error_class: 'Unauthorized', translation: 'No' }, 'bubble_401', 'API_TOKEN'],
    ['what is forbidden', 403, undefined, 'bubble_403', 'API_TOKEN'],
    ['a type it does not know', 404, body('NOT_FOUND', 'Type not found user'), 'bubble_404', 'BUBBLE_'],
    ['anything else', 410, undefined, 'bubble_410', '410'],
  ])('%s', async (_title, status, answer, code, advice) => {
    for (const call of [create, find]) {
      app.fault({ kind: 'status', status, ...(answer === undefined ? {} : { body: answer }) });
      const error = await failureOf(call());
      expect(error).toBeInstanceOf(PermanentError);
      expect(error).toMatchObject({ code, message: expect.stringContaining(advice) as string });
      expect(String(error)).not.toMatch(/ada@example|very-secret/);
    }
  });
});

describe('what Bubble cannot do now', () => {
  test.each([
    ['500', { kind: 'status', status: 500 }],
    ['503', { kind: 'status', status: 503 }],
    ['408', { kind: 'status', status: 408 }],
    ['an HTML page', { kind: 'html' }],
    ['a connection that breaks before', { kind: 'drop-before' }],
    ['a connection that breaks after', { kind: 'drop-after' }],
    ['half an answer', { kind: 'partial' }],
    ['success that is no JSON', { kind: 'status', status: 200, body: '<html></html>' }],
    ['success that says nothing', { kind: 'status', status: 200, body: {} }],
    ['no answer in time', { kind: 'delay', delayMs: 400 }],
  ] as const)('%s: a create may have been carried out, a look-up may be repeated', async (_title, fault) => {
    const bubble = client({ timeoutMs: 200 });
    app.fault(fault);
    const unclear = await failureOf(create(bubble));
    expect(unclear).toBeInstanceOf(ProviderUnavailableError);
    expect(unclear).toMatchObject({ ambiguous: true });

    app.fault(fault);
    expect(await failureOf(find(bubble))).toMatchObject({ code: 'provider_unavailable', ambiguous: false });
  });

  test('nobody listens: a create was certainly not carried out', async () => {
    const bubble = client();
    await app.close();
    expect(await failureOf(create(bubble))).toMatchObject({ code: 'provider_unavailable', ambiguous: false });
  });

  test('too many requests: as long as it says, for all of them', async () => {
    app.fault({ kind: 'status', status: 429, retryAfter: 7 });
    const error = await failureOf(create());
    expect(error).toBeInstanceOf(RateLimitedError);
    expect(error).toMatchObject({ retryAfterMs: 7 * SECOND, scope: 'provider' });
  });

  test('too many requests, and no word of how long: a second', async () => {
    app.fault({ kind: 'status', status: 429 });
    expect(await failureOf(create())).toMatchObject({ retryAfterMs: 1 * SECOND });
  });

  test('the job is aborted: the call ends at once', async () => {
    app.fault({ kind: 'delay', delayMs: 1_500 });
    const abort = new AbortController();
    const call = client().create(USER, FIELDS, abort.signal);
    abort.abort();
    expect(await failureOf(call)).toMatchObject({
      ambiguous: true,
      message: expect.stringContaining('aborted') as string,
    });
  });
});

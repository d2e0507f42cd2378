import { createPool, PermanentError, ProviderUnavailableError, SECOND, type JobContext, type Pool } from '@outbox/core';
import { startBubbleSimulator, type BubbleSimulator } from '@outbox/simulators';
import { createTestDatabase, handlerContext, type TestDatabase } from '@outbox/testing';
import { BUBBLE_REFUSED, createBubbleClient, type BubbleClient } from './bubble-client.ts';
import { handleBubbleUserSync, type BubbleDependencies } from './handler.ts';
import { rename, signUp, type UserWish } from './user.fixture.ts';

let database: TestDatabase;
/** Can do what the worker can, and no more. */
let worker: Pool;
let app: BubbleSimulator;

beforeAll(async () => {
  database = await createTestDatabase();
  const options = { applicationName: 'handler test', max: 3, onError: () => undefined };
  worker = createPool({ url: database.url, role: 'outbox_worker', ...options });
});
beforeEach(async () => void (app = await startBubbleSimulator()));
afterEach(() => app.close());
afterAll(async () => {
  await worker.end();
  await database.drop();
});

/** A user, and a way to run the attempts of its job. */
async function setup(wish: UserWish = {}, wrapBubble: (bubble: BubbleClient) => BubbleClient = (bubble) => bubble) {
  const userId = await signUp(database.pool, wish);
  const where = {
    appUrl: app.url,
    apiToken: 'simulator',
    dataType: 'user',
    idField: 'external_id',
    emailField: 'email',
  };
  const bubble = wrapBubble(createBubbleClient({ ...where, timeoutMs: 5 * SECOND }));
  const context = handlerContext<BubbleDependencies>(worker, { dependencies: { bubble } });
  const attempt = (overrides: Partial<JobContext> = {}) =>
    handleBubbleUserSync({ userId }, { ...context, ...overrides });
  return { userId, attempt };
}

async function bubbleIdOf(userId: string): Promise<unknown> {
  const { rows } = await database.pool.query<{ bubble_id: string | null }>(
    'select bubble_id from public.users where id = $1',
    [userId],
  );
  return rows[0]?.bubble_id;
}

const deleteUser = (userId: string) => database.pool.query('delete from public.users where id = $1', [userId]);
const methods = () => app.requests().map(({ method }) => method);
const names = () => app.things('user').map(({ first_name: name }) => name);

describe('a user that Bubble does not know', () => {
  test('is created with all its fields and our id, and gets its id in Bubble', async () => {
    const { userId, attempt } = await setup({ email: 'ada@example.com' });
    const outcome = await attempt();
    const [thing] = app.things('user');
    expect(thing).toMatchObject({
      ...{ external_id: userId, email: 'ada@example.com', first_name: 'Ada', last_name: 'Lovelace' },
    });
    expect(outcome).toEqual({ kind: 'done', result: { bubbleId: thing?._id, action: 'created' } });
    expect(await bubbleIdOf(userId)).toBe(thing?._id);
    expect(methods()).toEqual(['GET', 'GET', 'POST']);
  });

  test('is not created again by an attempt after one that died before it could record anything', async () => {
    const { userId, attempt } = await setup();
    await expect(attempt({ complete: () => Promise.reject(new Error('killed')) })).rejects.toThrow('killed');
    expect(await bubbleIdOf(userId)).toBeNull();
    await rename(database.pool, userId, 'Augusta');
    expect(await attempt()).toMatchObject({ kind: 'done', result: { action: 'updated' } });
    expect(names()).toEqual(['Augusta']);
    expect(await bubbleIdOf(userId)).toBe(app.things('user')[0]?._id);
  });
});

describe('a user that Bubble knows', () => {
  test('by the id we have is updated, and nothing else is asked', async () => {
    const bubbleId = app.put('user', { first_name: 'Old', points: 7 });
    const { userId, attempt } = await setup({ bubbleId });
    expect(await attempt()).toEqual({ kind: 'done', result: { bubbleId, action: 'updated' } });
    expect(app.things('user')).toMatchObject([{ _id: bubbleId, first_name: 'Ada', external_id: userId, points: 7 }]);
    expect(methods()).toEqual(['PATCH']);
  });

  test('by our id is updated', async () => {
    const { userId, attempt } = await setup();
    const bubbleId = app.put('user', { external_id: userId });
    expect(await attempt()).toEqual({ kind: 'done', result: { bubbleId, action: 'updated' } });
    expect(names()).toEqual(['Ada']);
    expect(await bubbleIdOf(userId)).toBe(bubbleId);
  });

  test('by email, without an id of ours, is taken over', async () => {
    const bubbleId = app.put('user', { email: 'grace@example.com' });
    const { userId, attempt } = await setup({ email: 'grace@example.com' });
    expect(await attempt()).toEqual({ kind: 'done', result: { bubbleId, action: 'updated' } });
    expect(app.things('user')).toMatchObject([{ external_id: userId }]);
  });

  test('by email, as another user of ours, is left alone: a person has to look', async () => {
    app.put('user', { email: 'joan@example.com', external_id: 'somebody-else', first_name: 'Joan' });
    const { userId, attempt } = await setup({ email: 'joan@example.com' });
    await expect(attempt()).rejects.toMatchObject({ code: 'bubble_email_taken' });
    expect(app.things('user')).toMatchObject([{ external_id: 'somebody-else', first_name: 'Joan' }]);
    expect(await bubbleIdOf(userId)).toBeNull();
  });

  test('and has lost since is looked up again, and created once more', async () => {
    const { userId, attempt } = await setup();
    await attempt();
    const first = app.things('user')[0]?._id ?? '';
    app.remove('user', first);
    expect(await attempt()).toMatchObject({ kind: 'done', result: { action: 'created' } });
    const second = app.things('user')[0]?._id;
    expect(second).not.toBe(first);
    expect(await bubbleIdOf(userId)).toBe(second);

    app.remove('user', second ?? '');
    expect(await attempt()).toMatchObject({ kind: 'done', result: { action: 'created' } });
    expect(app.count('user')).toBe(1);
  });

  test('but says it has not is tried again later, and not created', async () => {
    const { attempt } = await setup({}, (bubble) => ({
      ...bubble,
      find: () => Promise.resolve('1671702337369x488321592367327900'),
    }));
    await expect(attempt()).rejects.toThrow(ProviderUnavailableError);
    expect(app.count('user')).toBe(0);
  });
});

describe('what happens meanwhile', () => {
  test('a deleted user is skipped, and Bubble is not asked', async () => {
    const { userId, attempt } = await setup();
    await deleteUser(userId);
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'user_deleted' });
    expect(methods()).toEqual([]);
  });

  test('a user deleted while Bubble looks for it is not created', async () => {
    const { userId, attempt } = await setup({}, (bubble) => ({
      ...bubble,
      find: async (user, signal) => {
        await deleteUser(user.id);
        return bubble.find(user, signal);
      },
    }));
    expect(await attempt()).toEqual({ kind: 'skipped', reason: 'user_deleted' });
    expect([app.count('user'), await bubbleIdOf(userId)]).toEqual([0, undefined]);
  });

  test('a user deleted while it is created: the result says what Bubble has', async () => {
    const { attempt } = await setup({}, (bubble) => ({
      ...bubble,
      create: async (userId, ...rest) => {
        await deleteUser(userId);
        return bubble.create(userId, ...rest);
      },
    }));
    const outcome = await attempt();
    const bubbleId = app.things('user')[0]?._id;
    expect(outcome).toEqual({ kind: 'skipped', reason: 'user_deleted', result: { bubbleId, action: 'created' } });
  });

  test('what is written is how the user stands after Bubble was asked', async () => {
    const { attempt } = await setup({}, (bubble) => ({
      ...bubble,
      find: async (user, signal) => {
        await rename(database.pool, user.id, 'Later');
        return bubble.find(user, signal);
      },
    }));
    await attempt();
    expect(names()).toEqual(['Later']);
  });

  test('somebody signs up in Bubble with the email: that user is updated', async () => {
    const { userId, attempt } = await setup({ email: 'late@example.com' }, (bubble) => ({
      ...bubble,
      create: () => {
        app.put('user', { email: 'late@example.com' });
        return Promise.reject(new PermanentError('The email is taken.', { code: BUBBLE_REFUSED }));
      },
    }));
    expect(await attempt()).toMatchObject({ kind: 'done', result: { action: 'updated' } });
    expect(app.things('user')).toMatchObject([{ external_id: userId, first_name: 'Ada' }]);
  });

  test('a create that is refused for another reason fails, and says so', async () => {
    const refusal = new PermanentError('Bubble has no field "phone".', { code: BUBBLE_REFUSED });
    const { attempt } = await setup({}, (bubble) => ({ ...bubble, create: () => Promise.reject(refusal) }));
    await expect(attempt()).rejects.toBe(refusal);
  });
});

describe('a create that nobody could tell', () => {
  test('of an earlier attempt is settled before anything else', async () => {
    const { userId, attempt } = await setup();
    const key = `bubble_user:${userId}:first`;
    await database.pool.query(
      `insert into outbox.effects (key, job_id, run, provider, state, deadline_at)
       values ($1, 1, 1, 'bubble', 'started', now())`,
      [key],
    );
    const undecided = new Error('cannot tell yet');
    const settled: string[] = [];
    const settle: JobContext['settle'] = (request) => {
      settled.push(request.key);
      return Promise.reject(undecided);
    };
    await deleteUser(userId);
    await expect(attempt({ settle })).rejects.toBe(undecided);
    expect(settled).toEqual([key]);
    expect(methods()).toEqual([]);
  });

  test('is left to a person', async () => {
    const { attempt } = await setup();
    const effect = () => Promise.resolve({ state: 'unknown' as const, reason: 'provider_cannot_tell' });
    await expect(attempt({ effect })).rejects.toMatchObject({ code: 'create_unknown' });
    expect(app.count('user')).toBe(0);
  });

  test('and that a person says did not happen is not made any more', async () => {
    const { attempt } = await setup();
    const effect = () => Promise.resolve({ state: 'rejected' as const, reason: 'resolved_by_a_person' });
    expect(await attempt({ effect })).toEqual({ kind: 'skipped', reason: 'create_refused_by_a_person' });
    expect(app.count('user')).toBe(0);
  });

  test('and that a person says did happen, but Bubble does not find, is not made either', async () => {
    const { attempt } = await setup();
    const effect = () => Promise.resolve({ state: 'confirmed' as const, reference: 'resolved:7' });
    await expect(attempt({ effect })).rejects.toMatchObject({ code: 'create_confirmed_but_not_found' });
    expect(app.count('user')).toBe(0);
  });
});

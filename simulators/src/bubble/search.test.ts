import { startBubbleSimulator, type BubbleSimulator } from './simulator.ts';

const TASKS = '/api/1.1/obj/task';

let bubble: BubbleSimulator;
beforeEach(async () => void (bubble = await startBubbleSimulator()));
afterEach(() => bubble.close());

async function call(path: string, init: RequestInit = {}) {
  const response = await fetch(bubble.url + path, { ...init, headers: { authorization: 'Bearer token' } });
  return { status: response.status, type: response.headers.get('content-type'), body: await response.text() };
}

interface Found {
  cursor: number;
  results: Record<string, unknown>[];
  count: number;
  remaining?: number;
}

async function search(query: Record<string, string>): Promise<Found> {
  const { body } = await call(`${TASKS}?${new URLSearchParams(query).toString()}`);
  return (JSON.parse(body) as { response: Found }).response;
}

const namesWith = async (key: string, constraint_type: string, value?: unknown) => {
  const { results } = await search({ constraints: JSON.stringify([{ key, constraint_type, value }]) });
  return results.map(({ name }) => name);
};

describe('a search', () => {
  beforeEach(() => {
    bubble.put('task', { name: 'a', size: 9, note: '' });
    bubble.put('task', { name: 'b', size: 10, note: null });
    bubble.put('task', { name: 'c', note: 'x' });
    bubble.put('errand', { name: 'd', size: 9 });
  });

  test.each([
    ['equals', 9, ['a']],
    ['equals', '9', []],
    ['not equal', 9, ['b', 'c']],
    ['in', [9, 10, 11], ['a', 'b']],
    ['not in', [9, 10, 11], ['c']],
    ['is_empty', undefined, ['c']],
    ['is_not_empty', undefined, ['a', 'b']],
  ])('finds things of its type whose size %s %j', async (kind, value, names) => {
    expect(await namesWith('size', kind, value)).toEqual(names);
  });

  test('takes an empty text for empty', async () => {
    expect(await namesWith('note', 'is_empty')).toEqual(['a', 'b']);
  });

  test('wants all constraints met', async () => {
    const constraints = JSON.stringify([
      { key: 'size', constraint_type: 'is_not_empty' },
      { key: 'note', constraint_type: 'equals', value: null },
    ]);
    expect(await search({ constraints })).toMatchObject({ count: 1, results: [{ name: 'b' }] });
  });

  test('sorts numbers by their size, and what has none before them', async () => {
    const sorted = async (descending: string) =>
      (await search({ sort_field: 'size', descending })).results.map(({ name }) => name);
    expect([await sorted('false'), await sorted('true')]).toEqual([
      ['c', 'a', 'b'],
      ['b', 'a', 'c'],
    ]);
  });

  test('goes on at a cursor, and leaves the remaining out when told to', async () => {
    expect(await search({ cursor: '1', limit: '1' })).toMatchObject({ cursor: 1, count: 1, remaining: 1 });
    expect(await search({ cursor: '9' })).toEqual({ cursor: 9, results: [], count: 0, remaining: 0 });
    expect(await search({ exclude_remaining: 'true' })).not.toHaveProperty('remaining');
  });

  test.each(['constraints=nonsense', 'constraints={}', 'cursor=-1', 'limit=0', 'descending=yes'])(
    'is refused with %s',
    async (query) => {
      const { status, body } = await call(`${TASKS}?${query}`);
      expect([status, JSON.parse(body)]).toMatchObject([400, { statusCode: 400, body: { status: 'ERROR' } }]);
    },
  );

  test('names what it does not know: constraint, field and type', async () => {
    const { status, body } = await call(`${TASKS}?constraints=[{"key":"size","constraint_type":"like","value":9}]`);
    expect([status, JSON.parse(body)]).toEqual([
      404,
      {
        statusCode: 404,
        body: { status: 'NOT_FOUND', message: 'Constraint type not found like for field size and type task' },
      },
    ]);
  });
});

test('a look for a type that nothing was made of makes none of it', async () => {
  expect(await search({})).toMatchObject({ count: 0 });
  const page = await call('/');
  expect(page.body).toContain('no things yet');
});

test('a change keeps the id and the date of the creation, and moves that of the change', async () => {
  const id = bubble.put('task', { name: 'a' });
  const [made] = bubble.things('task');
  await call(`${TASKS}/${id}`, { method: 'PATCH', body: JSON.stringify({ _id: 'other', name: 'b' }) });
  expect(bubble.things('task')).toMatchObject([{ _id: id, name: 'b', 'Created Date': made?.['Created Date'] }]);
});

test('a bulk request takes 1,000 lines and no more, and answers in text', async () => {
  const bulk = (lines: number) => call(`${TASKS}/bulk`, { method: 'POST', body: '{"name":"a"}\n'.repeat(lines) });
  const answer = await bulk(1_000);
  expect([answer.status, answer.type?.startsWith('text/plain')]).toEqual([200, true]);
  expect(answer.body.split('\n')).toHaveLength(1_000);
  expect((await bulk(1_001)).status).toBe(400);
  expect(bubble.count('task')).toBe(1_000);
});

test('an unknown path is NOT_FOUND in the words of Bubble', async () => {
  const { status, body } = await call('/api/1.1/wf/greet', { method: 'POST' });
  expect([status, JSON.parse(body)]).toMatchObject([404, { statusCode: 404, body: { status: 'NOT_FOUND' } }]);
});

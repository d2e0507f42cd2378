import { setImmediate as nextTurn } from 'node:timers/promises';
import { microBatch } from './micro-batch.ts';

/** A batch function that notes its inputs and waits for `answer()` or `fail()`, one call of it per batch. */
function setup(maxSize = 100) {
  const batches: string[][] = [];
  const underWay: { resolve: (outputs: string[]) => void; reject: (error: Error) => void }[] = [];
  const call = microBatch<string, string>({
    maxSize,
    runBatch: (inputs) => {
      batches.push(inputs);
      return new Promise((resolve, reject) => underWay.push({ resolve, reject }));
    },
  });
  const current = () => {
    const first = underWay.shift();
    if (!first) throw new Error('No batch is under way.');
    return first;
  };
  const answer = async () => {
    current().resolve(batches.at(-1)?.map((input) => input.toUpperCase()) ?? []);
    await nextTurn();
  };
  const fail = async (message: string) => {
    current().reject(new Error(message));
    await nextTurn();
  };
  return { call, batches, answer, fail };
}

describe('microBatch', () => {
  test('calls made together share one run', async () => {
    const { call, batches, answer } = setup();
    const outputs = Promise.all([call('a'), call('b'), call('c')]);
    await nextTurn();
    expect(batches).toEqual([['a', 'b', 'c']]);
    await answer();
    expect(await outputs).toEqual(['A', 'B', 'C']);
  });

  test('a lone call leaves in the same turn of the event loop', async () => {
    const { call, batches, answer } = setup();
    const output = call('a');
    await nextTurn();
    expect(batches).toEqual([['a']]);
    await answer();
    expect(await output).toBe('A');
  });

  test('every caller gets the answer to its own input, whoever waits first', async () => {
    const { call, answer } = setup();
    const settled: string[] = [];
    const calls = ['b', 'a', 'c'].map(async (input) => settled.push(`${input}=${await call(input)}`));
    await nextTurn();
    await answer();
    await Promise.all(calls);
    expect(settled).toEqual(['b=B', 'a=A', 'c=C']);
  });

  test('calls made while a batch is under way go together with the next', async () => {
    const { call, batches, answer } = setup();
    const first = call('a');
    await nextTurn();
    const others = [call('b'), call('c')];
    await nextTurn();
    expect(batches).toEqual([['a']]);
    await answer();
    expect(batches).toEqual([['a'], ['b', 'c']]);
    await answer();
    expect(await Promise.all([first, ...others])).toEqual(['A', 'B', 'C']);
  });

  test('a batch holds maxSize inputs at most; the rest wait for the next', async () => {
    const { call, batches, answer } = setup(2);
    const outputs = Promise.all(['a', 'b', 'c', 'd', 'e'].map(call));
    await nextTurn();
    await answer();
    await answer();
    await answer();
    expect(batches).toEqual([['a', 'b'], ['c', 'd'], ['e']]);
    expect(await outputs).toEqual(['A', 'B', 'C', 'D', 'E']);
  });

  test('one bad input fails alone: the others of its batch are tried again one by one and succeed', async () => {
    const runs: string[][] = [];
    const call = microBatch<string, string>({
      maxSize: 10,
      runBatch: (inputs) => {
        runs.push(inputs);
        if (inputs.includes('bad')) return Promise.reject(new Error(`refused ${inputs.join()}`));
        return Promise.resolve(inputs);
      },
    });
    expect(await Promise.allSettled([call('a'), call('bad'), call('b')])).toMatchObject([
      { status: 'fulfilled', value: 'a' },
      { status: 'rejected', reason: { message: 'refused bad' } },
      { status: 'fulfilled', value: 'b' },
    ]);
    expect(runs).toEqual([['a', 'bad', 'b'], ['a'], ['bad'], ['b']]);
  });

  test('a lone call that fails is not tried twice', async () => {
    const { call, batches, fail } = setup();
    const refused = expect(call('a')).rejects.toThrow('gone');
    await nextTurn();
    await fail('gone');
    await refused;
    expect(batches).toEqual([['a']]);
  });

  test('a failed batch does not stop those after it', async () => {
    const { call, batches, answer, fail } = setup();
    const refused = expect(call('a')).rejects.toThrow('gone');
    await nextTurn();
    const waiting = call('b');
    await fail('gone');
    await refused;
    expect(batches).toEqual([['a'], ['b']]);
    await answer();
    expect(await waiting).toBe('B');
    const later = call('c');
    await nextTurn();
    await answer();
    expect(await later).toBe('C');
  });
});

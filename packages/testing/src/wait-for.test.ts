import { waitFor } from './wait-for.ts';

describe('waitFor', () => {
  it('returns what the assertion returns, once it does not throw', async () => {
    let calls = 0;
    const found = await waitFor(() => {
      calls += 1;
      if (calls < 3) throw new Error('not yet');
      return calls;
    });
    expect(found).toBe(3);
  });

  it('throws the last error when the time is up', async () => {
    let calls = 0;
    const waiting = waitFor(() => Promise.reject(new Error(`call ${(calls += 1)}`)), { timeoutMs: 60, intervalMs: 1 });
    const error = await waiting.catch((reason: unknown) => reason);
    expect(calls).toBeGreaterThan(1);
    expect(error).toEqual(new Error(`call ${calls}`));
  });

  it('asks at least once, however short the time', async () => {
    await expect(waitFor(() => 'at once', { timeoutMs: 0 })).resolves.toBe('at once');
  });
});

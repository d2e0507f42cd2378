import {
  done,
  EffectRejectedError,
  EffectUndecidedError,
  JobCancelledError,
  JobTimeoutError,
  LeaseLostError,
  MINUTE,
  PermanentError,
  ProviderUnavailableError,
  RateLimitedError,
  SECOND,
  skipped,
} from '@outbox/core';
import type { ClaimedJob } from './claim.ts';
import {
  backoffMs,
  endingOf,
  endingOfError,
  HandedBackError,
  TooOldError,
  unlessUndecided,
  type Ending,
} from './ending.ts';

const JOB: ClaimedJob = {
  id: '1',
  generation: 1,
  run: '1',
  name: 'test_job',
  queue: 'test-queue',
  payload: {},
  attempt: 1,
  maxAttempts: 3,
  timeoutMs: 45 * SECOND,
  backoffType: 'exponential',
  backoffMs: 1 * MINUTE,
  backoffJitter: 0.25,
  cancelRequested: false,
  callsUnknownSince: null,
  lateMs: 0,
  queuedMs: 0,
  provider: null,
  providerTenant: null,
  probing: false,
};

describe('an outcome', () => {
  it('done completes the row with its result', () => {
    expect(endingOf(done({ sent: 2 }))).toEqual({ kind: 'completed', result: { sent: 2 } });
  });

  it('skipped keeps its reason and result', () => {
    expect(endingOf(skipped('nobody_left', { of: 3 }))).toEqual({
      kind: 'skipped',
      reason: 'nobody_left',
      result: { of: 3 },
    });
  });
});

const unavailable = new ProviderUnavailableError('503', { ambiguous: true });
const rateLimited = new RateLimitedError('429', 7 * SECOND);
const undecided = new EffectUndecidedError('not yet', 9 * SECOND);
const tooOld = new TooOldError('never heard of it', 'unknown_job');
const permanent = new PermanentError('no', { code: 'opted_out' });
const timeout = new JobTimeoutError('too long');
const rejected = new EffectRejectedError('no', { code: 'bad_number' });
const plain = new Error('broken');

describe('an error', () => {
  it.each<[string, unknown, Ending]>([
    ['lost lease', new LeaseLostError('lost'), { kind: 'lost' }],
    ['hand-back', new HandedBackError('stop'), { kind: 'handed_back' }],
    ['cancellation', new JobCancelledError('stop'), { kind: 'cancelled', reason: 'cancelled_while_running' }],
    ['rate limit', rateLimited, { kind: 'parked', delayMs: 7 * SECOND, error: rateLimited }],
    [
      'a job this version does not know',
      tooOld,
      { kind: 'parked', delayMs: 30 * SECOND, error: tooOld, reason: 'unknown_job' },
    ],
    ['undecided effect', undecided, { kind: 'parked', delayMs: 9 * SECOND, error: undecided }],
    ['permanent error', permanent, { kind: 'failed', reason: 'opted_out', error: permanent }],
    ['time-out', timeout, { kind: 'retried', delayMs: 1 * MINUTE, error: timeout }],
    ['unavailable provider', unavailable, { kind: 'retried', delayMs: 1 * MINUTE, error: unavailable }],
    ['rejected call', rejected, { kind: 'retried', delayMs: 1 * MINUTE, error: rejected }],
    ['any other error', plain, { kind: 'retried', delayMs: 1 * MINUTE, error: plain }],
    ['thrown non-error', 'text', { kind: 'retried', delayMs: 1 * MINUTE, error: 'text' }],
    ['thrown nothing', undefined, { kind: 'retried', delayMs: 1 * MINUTE, error: undefined }],
  ])('%s ends the run its own way', (_name, error, ending) => {
    expect(endingOfError(error, JOB, () => 0)).toEqual(ending);
  });

  it.each([
    ['lost', new LeaseLostError('lost')],
    ['handed_back', new HandedBackError('stop')],
    ['cancelled', new JobCancelledError('stop')],
    ['parked', rateLimited],
    ['parked', undecided],
  ])('that is not the attempt’s fault stays %s on the last attempt', (kind, error) => {
    expect(endingOfError(error, { ...JOB, attempt: 3 })).toMatchObject({ kind });
  });

  it.each([3, 4])('worth another attempt fails the row when attempt %i was one too many', (attempt) => {
    expect(endingOfError(plain, { ...JOB, attempt })).toEqual({
      kind: 'failed',
      reason: 'attempts_spent',
      error: plain,
    });
  });

  it('does not end the row while a call may still turn out to have been carried out', () => {
    const failed = endingOfError(permanent, JOB);
    expect(unlessUndecided(failed, true)).toMatchObject({ kind: 'retried', error: permanent });
    expect(unlessUndecided(failed, false)).toBe(failed);
    const cancelled = endingOfError(new JobCancelledError('stop'), JOB);
    expect(unlessUndecided(cancelled, true)).toMatchObject({ kind: 'retried' });
    expect(unlessUndecided(cancelled, false)).toBe(cancelled);
    const parked = endingOfError(rateLimited, JOB);
    expect(unlessUndecided(parked, true)).toBe(parked);
  });
});

describe('backoff', () => {
  it.each([
    ['exponential', 1, 1],
    ['exponential', 2, 2],
    ['exponential', 3, 4],
    ['exponential', 4, 8],
    ['fixed', 1, 1],
    ['fixed', 5, 1],
  ] as const)(
    '%s after attempt %i: %i minutes and up to a quarter more, never less',
    (backoffType, attempt, minutes) => {
      const base = minutes * MINUTE;
      const job = { ...JOB, backoffType, attempt };
      const waits = Array.from({ length: 2_000 }, () => endingOfError(plain, { ...job, maxAttempts: 9 })).map(
        (ending) => (ending.kind === 'retried' ? ending.delayMs : NaN),
      );
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(base);
      expect(Math.max(...waits)).toBeLessThanOrEqual(base * 1.25);
      // It spreads over the whole quarter, in whole milliseconds.
      expect(Math.min(...waits)).toBeLessThan(base * 1.02);
      expect(Math.max(...waits)).toBeGreaterThan(base * 1.23);
      expect(waits.every(Number.isInteger)).toBe(true);
    },
  );

  it.each([0, 0.5, 1])('spreads by the fraction the job says (%f)', (backoffJitter) => {
    expect(backoffMs({ ...JOB, backoffJitter }, 0)).toBe(1 * MINUTE);
    expect(backoffMs({ ...JOB, backoffJitter }, 1 - Number.EPSILON)).toBe(Math.round(MINUTE * (1 + backoffJitter)));
  });
});

import { z } from 'zod';
import { defineJob, type JobDefinition } from './define-job.ts';
import { HOUR, MINUTE, SECOND } from './durations.ts';

const timings = { delayMs: 1 * HOUR, backoffMs: 1 * MINUTE };

const minimal = {
  name: 'greet',
  family: 'greetings',
  queue: 'greetings',
  description: 'Greets somebody',
  payload: z.object({ userId: z.uuid() }),
  key: ({ userId }: { userId: string }) => userId,
  unique: 'waiting',
  timings: { production: timings, demo: timings },
  attempts: 3,
  retentionDays: 3,
} as const;

describe('defineJob', () => {
  test('what is left out gets the defaults; failed rows are kept as long as the others', () => {
    expect(defineJob(minimal)).toMatchObject<Partial<JobDefinition>>({
      backoff: { type: 'exponential', jitter: 0.25 },
      timeoutMs: 45 * SECOND,
      failedRetentionDays: 3,
      prioritized: false,
    });
  });

  test('what is said wins over the defaults', () => {
    const said = { backoff: { type: 'fixed', jitter: 0 }, timeoutMs: 10, failedRetentionDays: 30, prioritized: true };
    expect(defineJob({ ...minimal, ...said } as typeof minimal)).toMatchObject(said);
  });

  test('a definition cannot be changed by who reads it', () => {
    expect(Object.isFrozen(defineJob(minimal))).toBe(true);
  });
});

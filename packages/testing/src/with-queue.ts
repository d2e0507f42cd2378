import { randomBytes } from 'node:crypto';
import { Redis } from 'ioredis';

const SCAN_COUNT = 500;

export interface TestPrefix {
  /** For QUEUE_PREFIX. */
  readonly prefix: string;
  /** For REDIS_URL. */
  readonly redisUrl: string;
  /** Removes every key below the prefix, and no other. With KEEP=1 they stay. */
  removeKeys(): Promise<void>;
}

/** A prefix for BullMQ's keys that nobody else uses. A worker that a test leaks finds nothing of the next test. */
export function createTestPrefix(): TestPrefix {
  const redisUrl = process.env.REDIS_URL;
  if (!redisUrl) throw new Error('No Redis for tests has been prepared: run the tests with "npm test".');
  const prefix = `test-${randomBytes(8).toString('hex')}`;
  const removeKeys = async () => {
    if (process.env.KEEP !== '1') await removeKeysOf(redisUrl, prefix);
  };
  return { prefix, redisUrl, removeKeys };
}

async function removeKeysOf(redisUrl: string, prefix: string): Promise<void> {
  const redis = new Redis(redisUrl);
  try {
    // The prefix stands alone or behind the brace of a hash tag, and is random enough to be found anywhere in a key.
    for await (const keys of redis.scanStream({ match: `*${prefix}:*`, count: SCAN_COUNT }) as AsyncIterable<
      string[]
    >) {
      if (keys.length > 0) await redis.unlink(keys);
    }
  } finally {
    redis.disconnect();
  }
}

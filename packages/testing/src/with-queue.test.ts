import { Redis } from 'ioredis';
import { createTestPrefix } from './with-queue.ts';

describe('createTestPrefix', () => {
  it('removes the keys of its prefix and no others', async () => {
    const mine = createTestPrefix();
    const other = createTestPrefix();
    const redis = new Redis(mine.redisUrl);
    const keys = [`{${mine.prefix}:sms}:sms:id`, `${mine.prefix}:plain`, `{${other.prefix}:sms}:sms:id`];
    for (const key of keys) await redis.set(key, '1');
    await mine.removeKeys();
    const left = await Promise.all(keys.map((key) => redis.exists(key)));
    expect(left).toEqual(process.env.KEEP === '1' ? [1, 1, 1] : [0, 0, 1]);
    await other.removeKeys();
    redis.disconnect();
  });
});

import type { Redis } from 'ioredis';

const MIB = 2 ** 20;

/** Bytes that Redis holds for its data, without what the allocator keeps. */
export async function usedMemoryOf(redis: Redis): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1]);
}

export function inMib(bytes: number, digits = 0): string {
  return (bytes / MIB).toFixed(digits);
}

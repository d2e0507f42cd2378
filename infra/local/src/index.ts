export * from './local-postgres.ts';
export * from './local-redis.ts';
export * from './ports.ts';

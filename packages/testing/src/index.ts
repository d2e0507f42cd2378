export * from './capture-logs.ts';
export * from './fault-proxy.ts';
export * from './handler-context.ts';
export * from './own-redis.ts';
export * from './run-service.ts';
export * from './wait-for.ts';
export * from './with-database.ts';
export * from './with-queue.ts';
